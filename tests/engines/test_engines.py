"""The engines on ranks: the twin's accumulation, clipping, saving and loading."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.manifest import Manifest
from tests.support.matrix import loss_difference, plain, take


def zero(stage: int) -> dict[str, Any]:
    return {"engine": "deepspeed", "deepspeed": {"zero_optimization": {"stage": stage}}}


@pytest.mark.parametrize("world", [1, 2])
def test_the_twin_on_ranks_and_accumulation(tiny: Manifest, tmp_path: Path, world: int) -> None:
    (expected,) = take(tmp_path, 1, [plain(tiny.root)])
    # Micro-batches that divide the batch, and some that do not.
    runs = [{**plain(tiny.root), "micro": micro} for micro in (8, 5, 3)]
    for found in take(tmp_path, world, runs):
        assert loss_difference(found, expected) < 1e-6
        assert found[0]["gradient"] < 1e-6


def test_clipping_scales_the_global_gradient(tiny: Manifest, tmp_path: Path) -> None:
    clipped = {**plain(tiny.root), "clip_norm": 0.5}
    (expected,) = take(tmp_path, 1, [clipped])
    # Without ZeRO, in fp32, DeepSpeed clips but tells no norm.
    engines = [{"engine": "torch"}, zero(1), zero(2), zero(3)]
    for found in take(tmp_path, 2, [{**clipped, "micro": 8, **engine} for engine in engines]):
        assert loss_difference(found, expected) < 1e-6
        torch.testing.assert_close(found[0]["norms"], expected[0]["norms"], rtol=1e-5, atol=0)


def test_saved_and_loaded_to_the_last_bit(tiny: Manifest, tmp_path: Path) -> None:
    engines = [{"engine": "torch"}, zero(0), zero(1), zero(2), zero(3)]
    common = {**plain(tiny.root), "micro": 8}
    folders = [str(tmp_path / f"saved-{number}") for number in range(len(engines))]
    saving = [{**common, **e, "save": f} for e, f in zip(engines, folders, strict=True)]
    loading = [{**common, **e, "load": f} for e, f in zip(engines, folders, strict=True)]
    saved, loaded = take(tmp_path, 2, saving), take(tmp_path, 2, loading)
    for (before, expected), (after, weights) in zip(saved, loaded, strict=True):
        assert after["losses"] == before["losses"][4:]
        assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


def test_two_ranks_then_one_then_two_are_one_run(tiny: Manifest, tmp_path: Path) -> None:
    (whole,) = take(tmp_path, 1, [{**plain(tiny.root), "epochs": 3}])
    steps = len(whole[0]["losses"]) // 3
    engines = [{"engine": "torch"}, zero(0), zero(1), zero(3)]

    def epoch(world: int, micro: int, **places: Any) -> list[list[float]]:
        runs = []
        for number, engine in enumerate(engines):
            run = {**plain(tiny.root), **engine, **places, "micro": micro}
            for place in {"load", "save"} & set(places):
                run[place] = str(tmp_path / f"{places[place]}-{number}")
            runs.append(run)
        return [found[0]["losses"][:steps] for found in take(tmp_path, world, runs)]

    epochs = (
        epoch(2, 8, save="first"),
        epoch(1, 4, save="second", load="first", saved_by=2),
        epoch(2, 2, load="second", saved_by=1),
    )
    for losses in map(chain.from_iterable, zip(*epochs, strict=True)):
        torch.testing.assert_close(list(losses), whole[0]["losses"], rtol=1e-6, atol=0)
