"""Cached regions give the same batches; what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from capdist.config.base import ConfigError, validate
from capdist.config.data import DataConfig
from capdist.data import residency
from capdist.data.residency import ResidentRegions, lock_pages
from shards.manifest import Manifest
from tests.support.readers import batches, same
from tests.support.shards import damaged


@pytest.mark.parametrize("workers", [0, 2])
def test_resident_regions_give_the_same_batches(grounded: Manifest, workers: int) -> None:
    read = batches(grounded, micro=3)
    limit = sum(shard.bytes for shard in grounded.split("train"))
    resident = ResidentRegions(limit, torch.device("cpu"))
    kept = replace(batches(grounded, workers=workers, micro=3), resident=resident)
    for epoch in range(3):
        for step, expected in zip(kept.epoch(epoch), read.epoch(epoch), strict=True):
            for batch, other in zip(step, expected, strict=True):
                same(batch, other)
    assert len(resident.spans) == 53


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


def test_shards_larger_than_memory_are_refused(
    tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = damaged(tiny, tmp_path)
    monkeypatch.setattr(residency, "_available_memory", lambda: 1000)
    with pytest.raises(ConfigError, match=r"data\.resident ram: not enough memory: the train"):
        lock_pages(manifest, "train")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_resident_gpu_without_a_gpu_is_refused(tiny: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"data\.resident gpu: this machine has no GPU"):
        ResidentRegions.of(tiny, "train")


def test_resident_gpu_needs_the_mapped_reader() -> None:
    with pytest.raises(ConfigError, match="resident gpu needs reader mapped, but reader is stream"):
        validate(DataConfig, {"shards": "x", "resident": "gpu", "reader": "stream"}, "a file")
