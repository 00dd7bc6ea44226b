"""Every reader gives the order's samples, bit for bit, whatever the ranks, workers, the start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.config.data import DataConfig
from capdist.data.collate import Collate
from capdist.data.dataset import evaluation_batches
from capdist.data.encoded_sample import SampleEncoder
from capdist.data.rank_plan import Ranks
from shards.manifest import Manifest
from shards.schema import Sample, decode
from shards.writer import write
from tests.support.readers import IMAGES, VOCAB, batches, keys, same
from tests.support.shards import GroundedSource, with_concepts

#: Samples of every global batch of some epochs.
Whole = list[list[list[Sample]]]


def samples(manifest: Manifest, *, grounding: bool = True) -> list[Sample]:
    """All training samples in tar order, from the tars' bytes."""
    found = []
    for shard in manifest.split("train"):
        data = manifest.tar_path(shard).read_bytes()
        beside = manifest.concepts.read(shard.name) if manifest.concepts else {}
        for entry in manifest.index(shard):
            members = {n: data[m.offset : m.offset + m.size] for n, m in entry.members.items()}
            sample = decode(entry.key, members)
            concepts = beside.get(entry.key, sample.concepts)
            sample = replace(sample, concepts=concepts)
            found.append(sample if grounding else replace(sample, grounding=None))
    return found


def global_batches(manifest: Manifest, epoch: int = 0) -> list[list[Sample]]:
    """Every global batch, from the order's specification."""
    by_shard: list[list[Sample]] = []
    left = iter(samples(manifest))
    for shard in manifest.split("train"):
        by_shard.append([next(left) for _ in range(shard.samples)])
    flat = [by_shard[s][i] for s, i in batches(manifest).plan.order.positions(epoch)]
    return [flat[start : start + IMAGES] for start in range(0, len(flat), IMAGES)]


@dataclass(frozen=True)
class Bare(GroundedSource):
    """No classes, no grounding; more samples than shards divide, one to a shard at the end."""

    sizes: tuple[tuple[str, int], ...] = (("train", 37), ("val", 7), ("test", 1))

    def load(self, split: str, ids: Any) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            yield replace(sample, classes=None, grounding=None, concepts=None)


@pytest.fixture(scope="module", params=["grounded", "bare", "beside"])
def manifest(
    request: pytest.FixtureRequest, grounded: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Manifest:
    root: Path = tmp_path_factory.mktemp(request.param)
    if request.param == "bare":
        return write(Bare(), root, samples_per_shard=9, workers=1)
    return grounded if request.param == "grounded" else with_concepts(grounded, root)


@pytest.fixture(scope="module")
def expected(manifest: Manifest) -> Whole:
    return [global_batches(manifest, epoch) for epoch in (0, 1)]


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 3), (2, 1), (2, 2)])
def test_the_same_batches_bit_for_bit(
    manifest: Manifest, expected: Whole, reader: str, world: int, workers: int
) -> None:
    names = manifest.class_names
    plain = Collate(SampleEncoder(VOCAB, 20, 3, len(names), names))
    for rank in range(world):
        read = batches(manifest, reader, rank, world, workers, micro=3)
        for epoch in (0, 1):  # in the second, words and checks are remembered
            whole = [step[rank::world] for step in expected[epoch]]
            steps = list(read.epoch(epoch))
            assert len(steps) == len(whole)
            for step, images in zip(steps, whole, strict=True):
                parts = [images[n : n + 3] for n in range(0, 3 * len(step), 3)]
                for batch, part in zip(step, parts, strict=True):
                    same(batch, plain(part) if part else Batch.empty(6))


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 0)])
def test_resume_continues_after_consumed_samples(
    tiny: Manifest, reader: str, world: int, workers: int
) -> None:
    place: dict[str, Any] = {"reader": reader, "rank": world - 1, "world": world}
    whole = keys(tiny, **place)
    for step in (0, 1, len(whole) - 1, len(whole)):
        again = keys(tiny, consumed=step * IMAGES, workers=workers, **place)
        assert again == whole[step:]


@pytest.mark.parametrize("world", [4, 8])
def test_many_ranks_share_the_same_global_batches(tiny: Manifest, world: int) -> None:
    whole = [[sample.key for sample in step] for step in global_batches(tiny)]
    ranks = [keys(tiny, rank=rank, world=world, micro=2) for rank in range(world)]
    for step, rank in product(range(len(whole)), range(world)):
        assert ranks[rank][step] == whole[step][rank::world]


def test_epochs_differ(tiny: Manifest) -> None:
    assert keys(tiny, epoch=0) != keys(tiny, epoch=1)


def test_evaluation_keeps_the_shards_order(tiny: Manifest, reader: str) -> None:
    data = DataConfig(shards="", reader=reader, workers=0)
    read = evaluation_batches(tiny, "val", data, 3, VOCAB, Ranks())
    found = [key for step in read.epoch(0) for batch in step for key in batch.keys]
    assert found == [entry.key for entry in tiny.index(tiny.split("val")[0])]


def test_steps_read_ahead_are_not_read_twice(tiny: Manifest) -> None:
    steps = batches(tiny, workers=3).epoch(0)
    first = next(steps)
    steps.close()
    assert len(first[0].keys) == IMAGES


@pytest.mark.parametrize(("world", "line"), [(3, "do not divide 8 lanes")])
def test_ranks_must_divide_the_lanes(tiny: Manifest, world: int, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        batches(tiny, world=world)


def test_regions_become_float32_on_the_device(tiny: Manifest) -> None:
    ((batch,), *_) = batches(tiny).epoch(0)
    assert batch.regions.dtype == torch.float16
    moved = batch.to("cpu")
    assert moved.regions.dtype == torch.float32
    np.testing.assert_array_equal(moved.regions.numpy(), batch.regions.numpy())
    assert moved.to("cpu").regions is moved.regions
