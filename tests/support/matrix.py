"""Every precision and ZeRO stage against plain torch in fp32, as a test and as a page.

``python -m tests.support.matrix > docs/results/precision.md`` measures the page anew.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from shards.writer import write
from tests.support.ranks import run_ranks
from tests.support.shards import TinySource

IMAGES = 16
STAGES: tuple[int, ...] = (0, 1, 2, 3)
ACCUMULATIONS = (1, 4)
KINDS = ("fp32", "bf16", "fp16")

#: Other sections of DeepSpeed's JSON, tried on two ranks.
SECTIONS: tuple[dict[str, Any], ...] = (
    {"zero_optimization": {"stage": 2, "overlap_comm": True}},
    {"zero_optimization": {"stage": 3, "overlap_comm": True}},
    {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}},
    {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
    {
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
        "zero_force_ds_cpu_optimizer": False,
    },
    {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 2}},
    {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}},
    {"zero_optimization": {"stage": 3, "zero_quantized_gradients": True}},
    {"zero_optimization": {"stage": 1}, "communication_data_type": "fp16"},
    {
        "zero_optimization": {"stage": 1},
        "torch_autocast": {"enabled": True, "dtype": "bfloat16"},
    },
    {"zero_optimization": {"stage": 1}, "compile": {"deepcompile": True}},
    {"sparse_gradients": True},
    {"amp": {"enabled": True}},
)

Given = tuple[dict[str, Any], dict[str, Tensor]]


@dataclass(frozen=True)
class Cell:
    """One way to take the same steps; ``stage`` is ZeRO's, or the torch engine."""

    kind: str
    stage: int | Literal["torch"]
    world: int
    accumulation: int

    def run(self, shards: Path) -> dict[str, Any]:
        """The arguments of `steps.take_steps`."""
        half: dict[str, Any] = {"enabled": True}
        if self.kind == "fp16":
            half["initial_scale_power"] = 8
        section: dict[str, Any] = {} if self.kind == "fp32" else {self.kind: half}
        zero = {} if self.stage == "torch" else {"zero_optimization": {"stage": self.stage}}
        return {
            "shards": str(shards),
            "engine": "torch" if self.stage == "torch" else "deepspeed",
            "micro": IMAGES // (self.world * self.accumulation),
            "deepspeed": {**zero, **section},
        }


def cells(world: int, kinds: tuple[str, ...] = KINDS) -> list[Cell]:
    """All cells of the matrix on a number of ranks."""
    return [
        Cell(kind, stage, world, accumulation)
        for kind in kinds
        for stage in (*STAGES, *(("torch",) if kind == "bf16" else ()))
        for accumulation in ACCUMULATIONS
    ]


def take(
    folder: Path, world: int, runs: list[dict[str, Any]], *, has_fp16: bool = True
) -> list[Given]:
    """What each run gave, in turn, on fresh ranks; DeepSpeed is told whether their CPU has fp16."""
    out = folder / f"given-{len(list(folder.iterdir()))}.pt"
    arguments = {"runs": runs, "out": str(out), "has_fp16": has_fp16}
    run_ranks(Path(__file__).with_name("steps.py"), world, arguments, timeout=500)
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


def section_row(section: dict[str, Any], found: Given, expected: Given) -> str:
    """A line of the second table."""
    start = f"| `{json.dumps(section)}` |"
    if "refused" in found[0]:
        # The first sentence says what it is.
        reason = found[0]["refused"].removeprefix("deepspeed: ").partition(". ")[0]
        return f"{start} refused: {reason} | |"
    return f"{start} {loss_difference(found, expected):.1e} | {found[0]['gradient']:.1e} |"


PAGE = """# Precision and ZeRO, on CPU processes

An epoch of a small GLIED without dropout, {steps} steps of {images} images, the last one uneven, by
DeepSpeed, and by the torch engine in bf16, against one rank of plain torch in fp32 on the same
global batches. *Loss*: the largest relative difference of a step's loss. *Gradient*: of the first
step as the optimizer got it, the largest difference of an element from the gradient of the mean
over all tokens of the global batch, relative to the largest element. DeepSpeed's check that refuses
fp16 on a CPU was lifted, and the initial loss scale was 2^8.
[Training](../training.md#precision-and-zero) explains what is refused.

| precision | ZeRO, or torch | ranks | accumulation | loss | gradient | skipped steps |
| --- | --: | --: | --: | --: | --: | --: |
{rows}

## Other sections, on two ranks

| section | loss | gradient |
| --- | --: | --: |
{sections}

Measured by `python -m tests.support.matrix > docs/results/precision.md`;
`tests/engines/test_matrix.py` holds every cell to its bound.
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
        sections = []
        half = {**plain(shards), "engine": "deepspeed", "micro": IMAGES // 2}
        for section in SECTIONS:
            (found,) = take(folder, 2, [{**half, "deepspeed": section}])
            sections.append(section_row(section, found, expected))
    print(
        PAGE.format(
            steps=len(expected[0]["losses"]),
            images=IMAGES,
            rows="\n".join(lines),
            sections="\n".join(sections),
        )
    )


if __name__ == "__main__":
    main()
