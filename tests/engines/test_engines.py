"""The engines on ranks: accumulation, clipping, saving and loading."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.manifest import Manifest
from tests.support.matrix import Given, loss_difference, plain, take


def zero(stage: int) -> dict[str, Any]:
    return {"engine": "deepspeed", "deepspeed": {"zero_optimization": {"stage": stage}}}


#: Sizes of micro-batches: some divide the batch, some do not.
MICRO = (8, 5, 3)


@pytest.fixture(scope="module")
def alone(tiny: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Given]:
    """Runs of plain torch on one rank, which is started once for all of them."""
    reference = plain(tiny.root)
    runs = {
        "plain": reference,
        "clipped": {**reference, "clip_norm": 0.5},
        "three epochs": {**reference, "epochs": 3},
        **{f"micro {micro}": {**reference, "micro": micro} for micro in MICRO},
    }
    taken = take(tmp_path_factory.mktemp("alone"), 1, list(runs.values()))
    return dict(zip(runs, taken, strict=True))


def test_torch_engine_is_independent_of_ranks_and_accumulation(
    tiny: Manifest, tmp_path: Path, alone: dict[str, Given]
) -> None:
    two_ranks = take(tmp_path, 2, [{**plain(tiny.root), "micro": micro} for micro in MICRO])
    for found in (*(alone[f"micro {micro}"] for micro in MICRO), *two_ranks):
        assert loss_difference(found, alone["plain"]) < 1e-6
        assert found[0]["gradient"] < 1e-6


def test_clipping_scales_the_global_gradient(
    tiny: Manifest, tmp_path: Path, alone: dict[str, Given]
) -> None:
    expected = alone["clipped"]
    # Without ZeRO, in fp32, DeepSpeed clips but does not report the norm.
    engines = [{"engine": "torch"}, zero(1), zero(2), zero(3)]
    common = {**plain(tiny.root), "clip_norm": 0.5, "micro": 8}
    for found in take(tmp_path, 2, [{**common, **engine} for engine in engines]):
        assert loss_difference(found, expected) < 1e-6
        torch.testing.assert_close(found[0]["norms"], expected[0]["norms"], rtol=1e-5, atol=0)


def test_save_and_load_are_bit_exact(tiny: Manifest, tmp_path: Path) -> None:
    engines = [{"engine": "torch"}, zero(0), zero(1), zero(2), zero(3)]
    common = {**plain(tiny.root), "micro": 8}
    folders = [str(tmp_path / f"saved-{number}") for number in range(len(engines))]
    saving = [{**common, **e, "save": f} for e, f in zip(engines, folders, strict=True)]
    loading = [{**common, **e, "load": f} for e, f in zip(engines, folders, strict=True)]
    saved, loaded = take(tmp_path, 2, saving), take(tmp_path, 2, loading)
    for (before, expected), (after, weights) in zip(saved, loaded, strict=True):
        assert after["losses"] == before["losses"][4:]
        assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


def test_two_ranks_then_one_then_two_are_one_run(
    tiny: Manifest, tmp_path: Path, alone: dict[str, Given]
) -> None:
    whole = alone["three epochs"]
    steps = len(whole[0]["losses"]) // 3
    #: Of each epoch; the last ones change the ZeRO stage.
    engines = [
        *([engine] * 3 for engine in ({"engine": "torch"}, zero(0), zero(1), zero(3))),
        [zero(1), zero(2), zero(1)],
    ]

    def epoch(epoch: int, world: int, micro: int, **places: Any) -> list[list[float]]:
        runs = []
        for number, engine in enumerate(engines):
            run = {**plain(tiny.root), **engine[epoch], **places, "micro": micro}
            for place in {"load", "save"} & set(places):
                run[place] = str(tmp_path / f"{places[place]}-{number}")
            runs.append(run)
        return [found[0]["losses"][:steps] for found in take(tmp_path, world, runs)]

    epochs = (
        epoch(0, 2, 8, save="first"),
        epoch(1, 1, 4, save="second", load="first", saved_by=2),
        epoch(2, 2, 2, load="second", saved_by=1),
    )
    for losses in map(chain.from_iterable, zip(*epochs, strict=True)):
        torch.testing.assert_close(list(losses), whole[0]["losses"], rtol=1e-6, atol=0)
