"""Cached regions give the same batches; what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from capdist.config.base import ConfigError, validate
from capdist.config.data import DataConfig
from capdist.data import residency
from capdist.data.residency import RegionStore, lock_pages
from shards.manifest import Manifest
from tests.support.readers import batches, same
from tests.support.shards import damaged


@pytest.mark.parametrize("workers", [0, 2])
def test_stored_regions_give_the_same_batches(grounded: Manifest, workers: int) -> None:
    plain = batches(grounded, micro=3)
    limit = sum(shard.bytes for shard in grounded.split("train"))
    store = RegionStore(limit, torch.device("cpu"))
    stored = replace(batches(grounded, workers=workers, micro=3), store=store)
    for epoch in range(3):
        for step, expected in zip(stored.epoch(epoch), plain.epoch(epoch), strict=True):
            for batch, other in zip(step, expected, strict=True):
                same(batch, other)
    assert len(store.spans) == 53


def test_pages_are_locked_once(tiny: Manifest, tmp_path: Path) -> None:
    manifest, _ = damaged(tiny, tmp_path)
    before = locked()
    lock_pages(manifest, "train")
    size = sum(shard.bytes for shard in manifest.split("train")) // 1024
    assert size <= locked() - before <= size + 4 * len(manifest.shards)
    lock_pages(manifest, "train")
    assert locked() - before <= size + 4 * len(manifest.shards)


def locked() -> int:
    """Kilobytes that this process has locked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmLck:")).split()[1])


def test_a_set_that_does_not_fit(
    tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = damaged(tiny, tmp_path)
    monkeypatch.setattr(residency, "_available", lambda: 1000)
    with pytest.raises(ConfigError, match=r"data\.cache ram: not enough memory: the train shards "):
        lock_pages(manifest, "train")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tiny: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"data\.cache gpu: no GPU here"):
        RegionStore.of(tiny, "train")


def test_the_gpu_goes_with_the_mapped_reader() -> None:
    with pytest.raises(ConfigError, match="cache gpu goes with reader mapped, not with stream"):
        validate(DataConfig, {"shards": "x", "cache": "gpu", "reader": "stream"}, "a file")
