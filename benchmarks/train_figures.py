"""What the training benchmark reports."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from benchmarks import train_explanation
from benchmarks.decode import FEATURES, REGIONS, VOCABULARY, machine
from benchmarks.train_explanation import ALONE, COCO
from benchmarks.train_process import Inspection, Round
from benchmarks.train_setup import BF16, NO_OVERLAP, ZERO
from capdist.reporting.table import Row, format_markdown, format_table

#: Rounds of a program, and steps of a round.
ROUNDS, STEPS = 5, 3
#: Programs that train the same model as ours.
OURS = ("torch", "deepspeed", "loop", "one caption")
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
#: Columns of counted operations.
COUNTED = ("useful %", "arithmetic %")
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
        tables = [format_table(self.speeds, self.columns), format_table(self.parts, PARTS + COUNTS)]
        return "\n\n".join([*tables, *self._same()])

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of speeds: operations are counted for the captions that cross entropy reads."""
        return tuple(name for name in SPEED if self.stage == "xe" or name not in COUNTED)

    def page(self, command: str) -> str:
        programs = train_explanation.programs({name for _, name in self.programs}, self.stage)
        columns = train_explanation.columns(self.stage, self.base)
        explained = "\n\n".join([programs, columns, *self._same()])
        return (
            f"# Training steps: {self.model}, {self.stage}\n\n"
            f"{self.images} images with five captions each for a rank in a step, of COCO's sizes: "
            f"{REGIONS} x {FEATURES} fp16 regions from shards, V = {VOCABULARY}, captions of 8 "
            "to 20 words, 10.5 on average. fp32 where no other precision is named, "
            f"{machine()}, torch {torch.__version__}; load of the machine before: {self.load:.1f}. "
            "Every rank is a process; the programs take "
            f"turns, and figures are medians of {ROUNDS} rounds of {STEPS} steps.\n\n"
            f"{format_markdown(self.speeds, self.columns)}\n\n{explained}\n\n"
            f"## Parts of a step\n\n{train_explanation.parts(self.stage)}\n\n"
            f"{format_markdown(self.parts, PARTS + COUNTS)}\n\n```\n{command}\n```\n"
        )

    def _same(self) -> list[str]:
        if self.loss_difference is None:
            return []
        return [f"fp32 losses per caption differ by at most {self.loss_difference:.1e} (relative)"]


def label(ranks: int, name: str) -> str:
    return f"{name}, {ranks} rank{'s' * (ranks > 1)}"


def own_model(name: str) -> bool:
    """Whether a program trains the same model as ours."""
    return name in (*OURS, *ALONE, *ZERO, *BF16, NO_OVERLAP)
