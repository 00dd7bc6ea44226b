"""Every precision, ZeRO stage, accumulation and number of ranks takes the same steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import float32

from shards.manifest import Manifest
from tests.support.matrix import KINDS, Cell, Given, cells, loss_difference, plain, take

#: Largest relative difference of a loss, and of an element of the first gradient.
BOUNDS = {"fp32": (1e-6, 1e-6), "bf16": (2e-3, 2**-6), "fp16": (2e-4, 2**-9)}


def bounds(cell: Cell) -> tuple[float, float]:
    # Without ZeRO, DeepSpeed takes an empty step of Adam on its bf16 weights when it starts.
    return (2e-2, 2**-6) if (cell.kind, cell.stage) == ("bf16", 0) else BOUNDS[cell.kind]


PLAIN = "plain"


def overflowing(stage: int, world: int, shards: Path) -> dict[str, Any]:
    """fp16 that starts from too large a loss scale."""
    run = Cell("fp16", stage, world, 1).run(shards)
    fp16 = {"enabled": True, "initial_scale_power": 24, "hysteresis": 1}
    return {**run, "epochs": 5, "deepspeed": {**run["deepspeed"], "fp16": fp16}}


@pytest.fixture(scope="module")
def steps(
    tiny: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], dict[Any, Given]]:
    """The runs of so many ranks, which are started once for all of them."""

    @cache
    def of_world(world: int) -> dict[Any, Given]:
        runs: dict[Any, dict[str, Any]] = {PLAIN: plain(tiny.root)} if world == 1 else {}
        runs |= {cell: cell.run(tiny.root) for cell in cells(world, KINDS)}
        runs |= {f"overflow {stage}": overflowing(stage, world, tiny.root) for stage in (1, 2, 3)}
        folder = tmp_path_factory.mktemp(f"matrix-{world}")
        return dict(zip(runs, take(folder, world, list(runs.values())), strict=True))

    return of_world


@pytest.fixture(scope="module")
def expected(steps: Callable[[int], dict[Any, Given]]) -> Given:
    return steps(1)[PLAIN]


def test_losses_fall_on_every_batch_of_an_uneven_epoch(expected: Given) -> None:
    losses = expected[0]["losses"]
    assert len(losses) == 4  # 53 images in batches of 16
    assert losses[-1] < losses[0]
    assert expected[0]["gradient"] < 1e-6


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_all_take_the_same_steps(
    steps: Callable[[int], dict[Any, Given]], expected: Given, kind: str, world: int
) -> None:
    for cell in cells(world, (kind,)):
        found = steps(world)[cell]
        if cell.kind == "fp16" and cell.stage == 0:
            assert "without ZeRO DeepSpeed does not scale the loss" in found[0]["refused"]
            continue
        loss, gradient = bounds(cell)
        assert loss_difference(found, expected) < loss, cell
        assert found[0]["gradient"] < gradient, cell
        assert not any(found[0]["skipped"]), cell
        assert {weight.dtype for weight in found[1].values()} == {float32}


def test_fp16_is_refused_by_deepspeed_on_a_cpu_without_it(tiny: Manifest, tmp_path: Path) -> None:
    ((given, _),) = take(tmp_path, 1, [Cell("fp16", 1, 1, 1).run(tiny.root)], has_fp16=False)
    assert "deepspeed: Type fp16 is not supported on your device" in given["refused"]


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2])
def test_training_recovers_from_overflows(
    steps: Callable[[int], dict[Any, Given]], world: int, stage: int
) -> None:
    record, _ = steps(world)[f"overflow {stage}"]
    skipped, losses = record["skipped"], record["losses"]
    assert skipped[0]
    assert not any(skipped[-8:])
    # A skipped step changes nothing: its batch gives the same loss an epoch later.
    assert skipped.index(False) < 8
    assert losses[-1] < 0.9 * losses[3]
