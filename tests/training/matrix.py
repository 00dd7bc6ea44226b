"""Every precision and ZeRO stage against plain torch in fp32, as a test and as a page.

``python -m tests.training.matrix > docs/results/precision.md`` measures the page anew.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.writer import write
from tests.conftest import TinySource
from tests.training.ranks import run_ranks

IMAGES = 16
STAGES = (0, 1, 2, 3)
ACCUMULATIONS = (1, 4)
KINDS = ("fp32", "bf16", "fp16")

Given = tuple[dict[str, Any], dict[str, Tensor]]


@dataclass(frozen=True)
class Cell:
    """One way to take the same steps."""

    kind: str
    stage: int
    world: int
    accumulation: int

    def run(self, shards: Path) -> dict[str, Any]:
        """The arguments of `steps.take_steps`."""
        half: dict[str, Any] = {"enabled": True}
        if self.kind == "fp16":
            half["initial_scale_power"] = 8
        section: dict[str, Any] = {} if self.kind == "fp32" else {self.kind: half}
        return {
            "shards": str(shards),
            "engine": "deepspeed",
            "micro": IMAGES // (self.world * self.accumulation),
            "deepspeed": {"zero_optimization": {"stage": self.stage}, **section},
        }


def cells(world: int, kinds: tuple[str, ...] = KINDS) -> list[Cell]:
    """All cells of the matrix on a number of ranks."""
    return [
        Cell(kind, stage, world, accumulation)
        for kind in kinds
        for stage in STAGES
        for accumulation in ACCUMULATIONS
    ]


def take(folder: Path, world: int, runs: list[dict[str, Any]], *, lift: bool = True) -> list[Given]:
    """What each run gave, in turn, on fresh ranks."""
    out = folder / f"given-{len(list(folder.iterdir()))}.pt"
    arguments = {"runs": runs, "out": str(out), "lift": lift}
    run_ranks("tests.training.steps", world, arguments, timeout=500)
    given: list[Given] = torch.load(out, weights_only=True)
    return given


def plain(shards: Path) -> dict[str, Any]:
    """One rank of plain torch, whole batches: what all others are compared with."""
    return {"shards": str(shards), "engine": "torch", "micro": IMAGES}


def loss_difference(found: Given, expected: Given) -> float:
    """The largest relative difference of a step's loss."""
    losses = zip(found[0]["losses"], expected[0]["losses"], strict=True)
    return max(abs(a - b) / b for a, b in losses)


def row(cell: Cell, found: Given, expected: Given) -> str:
    """A line of the page."""
    start = f"| {cell.kind} | {cell.stage} | {cell.world} | {cell.accumulation} |"
    if "refused" in found[0]:
        return f"{start} refused | | |"
    loss, gradient = loss_difference(found, expected), found[0]["gradient"]
    return f"{start} {loss:.1e} | {gradient:.1e} | {sum(found[0]['skipped'])} |"


PAGE = """# Precision and ZeRO, on CPU processes

An epoch of a small GLIED without dropout, {steps} steps of {images} images, the last one uneven, by
DeepSpeed, against one rank of plain torch in fp32 on the same global batches. *Loss*: the largest
relative difference of a step's loss. *Gradient*: of the first step as the optimizer got it, the
largest difference of an element from the gradient of the mean over all tokens of the global batch,
relative to the largest element. DeepSpeed's check that refuses fp16 on a CPU was lifted, and the
initial loss scale was 2^8. [Training](../training.md#precision-and-zero) explains what is refused.

| precision | ZeRO | ranks | accumulation | loss | gradient | skipped steps |
| --- | --: | --: | --: | --: | --: | --: |
{rows}

Measured by `python -m tests.training.matrix > docs/results/precision.md`;
`tests/training/test_matrix.py` holds every cell to its bound.
"""


def main() -> None:
    """Print the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = write(TinySource(), folder / "shards", samples_per_shard=8, workers=1).root
        (expected,) = take(folder, 1, [plain(shards)])
        lines = []
        for world in (1, 2):
            given = take(folder, world, [cell.run(shards) for cell in cells(world)])
            lines += [row(cell, g, expected) for cell, g in zip(cells(world), given, strict=True)]
    print(PAGE.format(steps=len(expected[0]["losses"]), images=IMAGES, rows="\n".join(lines)))


if __name__ == "__main__":
    main()
