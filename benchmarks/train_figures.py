"""What the training benchmark reports."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from benchmarks.decode import FEATURES, REGIONS, VOCABULARY, machine
from benchmarks.train_process import Inspection, Round
from benchmarks.train_setup import BF16, NO_OVERLAP, ZERO
from capdist.reporting.table import Row, format_markdown, format_table

#: Rounds of a program, and steps of a round.
ROUNDS, STEPS = 5, 3
#: Programs that train the same model as ours.
OURS = ("torch", "deepspeed", "loop", "one caption")
#: What ours is without its means, and with one of them.
MEANS = ("before", "no padding", "loss in chunks", "fused Adam", "kept memory", "dropout")
SPEED = (
    "captions/s",
    "COCO x 25, h",
    "x base",
    "useful %",
    "arithmetic %",
    "ceiling GF/s",
    "peak MB",
)
PARTS = ("data", "forward", "loss", "backward", "communication", "update", "other")
#: Captions of COCO's training images, Karpathy's split.
COCO = 566_747
EXPLANATION = (
    "torch and deepspeed are ours. loop: the same model in a plain loop that pads captions to the "
    "batch's longest, with fused Adam, torch's dropout and DistributedDataParallel; it samples by "
    "torch.multinomial, also from captions that have ended. one caption: the same, with an image "
    "for every caption. nn.Transformer: the loop with torch's own encoder layer and decoder of "
    "about as many parameters. Trainer: Hugging Face's, with BART, a caption a sample.\n\n"
    "before: the loop with torch's default Adam; no padding, loss in chunks, fused Adam, kept "
    "memory, dropout: the same with one of the means that make ours fast. no overlap: torch, but "
    "gradients are summed over the ranks after the backward pass only. ZeRO: ours by DeepSpeed, "
    "which divides moments (1), gradients (2) and weights (3) among the ranks.\n\n"
    f"COCO x 25: hours of 25 epochs over its {COCO:,} captions at this speed. x base: captions/s "
    "compared with the loop (or with before, or with torch where there is no loop) on as many "
    "ranks, the median of the rounds' own ratios. useful: flops of the model without padding, "
    "divided by the step's time and the ceiling, which is what a product of large matrices reached "
    "before the round, in bf16 for that program. arithmetic: flops computed, compared with those "
    "without padding."
)
COUNTS = ("host reads", "host wait ms", "all-reduces")


@dataclass(frozen=True)
class Measured:
    """Rounds of a program, the slowest rank's of each, and what its first rank found.

    ``captions`` and ``useful`` flops of a rank's step; ``loss`` per caption before the first one.
    """

    rounds: list[Round]
    inspection: Inspection
    loss: float | None
    captions: float
    useful: float

    @property
    def step(self) -> float:
        return median(each.step for each in self.rounds)

    @property
    def useful_fraction(self) -> float:
        """The flops without padding, as a share of what the ceiling allows in a step's time."""
        return median(self.useful / (each.step * each.ceiling) for each in self.rounds)

    def speedup(self, other: Measured) -> float:
        """How many times the captions/s of the other: the median of the rounds' own ratios."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return median(b.step / a.step for a, b in pairs)


@dataclass(frozen=True)
class Figures:
    """Programs by ranks and name; the ``base`` of the same ranks is what others are compared with.

    ``images`` of a rank in a step; ``load``: load average of the machine's last minute before.
    """

    model: str
    stage: str
    images: int
    programs: dict[tuple[int, str], Measured]
    load: float
    base: str = "loop"

    @property
    def speeds(self) -> dict[str, Row]:
        return {
            label(ranks, name): {
                "captions/s": ranks * each.captions / each.step,
                "COCO x 25, h": 25 * COCO * each.step / (3600 * ranks * each.captions),
                "x base": each.speedup(self.programs[ranks, self.base]),
                "useful %": 100 * each.useful_fraction if own_model(name) else None,
                "arithmetic %": 100 * each.inspection.flops / each.useful or None,
                "ceiling GF/s": median(r.ceiling for r in each.rounds) / 1e9,
                "peak MB": each.inspection.peak / 1e6,
            }
            for (ranks, name), each in self.programs.items()
        }

    @property
    def parts(self) -> dict[str, Row]:
        """Medians in milliseconds, and counts of a step."""
        return {
            label(ranks, name): {
                **{
                    part: 1e3 * median(r.parts[part] for r in each.rounds if part in r.parts)
                    for part in PARTS
                    if any(part in r.parts for r in each.rounds)
                },
                **(each.inspection.counts if each.inspection.flops else {}),
            }
            for (ranks, name), each in self.programs.items()
        }

    @property
    def loss_difference(self) -> float | None:
        """The largest relative difference from the base, of our model in fp32."""
        found = [
            abs(each.loss / expected - 1)
            for (ranks, name), each in self.programs.items()
            if own_model(name) and name not in BF16
            if each.loss and (expected := self.programs[ranks, self.base].loss)
        ]
        return max(found, default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "stage": self.stage,
            "images": self.images,
            "speeds": self.speeds,
            "parts_ms": self.parts,
            "loss_difference": self.loss_difference,
            "machine_load": self.load,
        }

    def table(self) -> str:
        return "\n\n".join(
            [
                format_table(self.speeds, SPEED),
                format_table(self.parts, PARTS + COUNTS),
                self._same(),
            ]
        )

    def page(self, command: str) -> str:
        return (
            f"# Training steps: {self.model}, {self.stage}\n\n"
            f"{self.images} images with five captions each for a rank in a step, of COCO's sizes: "
            f"{REGIONS} x {FEATURES} fp16 regions from shards, V = {VOCABULARY}, captions of 8 "
            "to 20 words, 10.5 on average. fp32 where no other precision is named, "
            f"{machine()}, torch {torch.__version__}; load of the machine before: {self.load:.1f}. "
            "Every rank is a process; the programs take "
            f"turns, and figures are medians of {ROUNDS} rounds of {STEPS} steps.\n\n"
            f"{format_markdown(self.speeds, SPEED)}\n\n"
            f"{EXPLANATION}\n\n{self._same()}\n\n"
            "## Parts of a step\n\nMilliseconds by the host's clock on the slowest rank, and what "
            "one step reads from its device and sums over the ranks.\n\n"
            f"{format_markdown(self.parts, PARTS + COUNTS)}\n\n```\n{command}\n```\n"
        )

    def _same(self) -> str:
        if self.loss_difference is None:
            return ""
        return f"fp32 losses per caption differ by at most {self.loss_difference:.1e} (relative)"


def label(ranks: int, name: str) -> str:
    return f"{name}, {ranks} rank{'s' * (ranks > 1)}"


def own_model(name: str) -> bool:
    """Whether a program trains the same model as ours."""
    return name in (*OURS, *MEANS, *ZERO, *BF16, NO_OVERLAP)
