"""The stream reader gives the order's samples, whatever the ranks, the workers, the start."""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path

import pytest

from capdist.config import ConfigError
from capdist.data.order import Order
from capdist.data.stream import Ranks, Stream
from shards.index import Manifest
from shards.schema import ShardError
from shards.sidecars import ConceptSet, write_sidecar

IMAGES = 16


def stream(manifest: Manifest, rank: int = 0, world: int = 1, workers: int = 0) -> Stream:
    sizes = tuple(shard.samples for shard in manifest.split("train"))
    order = Order(sizes, seed=7, lanes=8, window=4)
    return Stream(manifest, "train", order, Ranks(rank, world), IMAGES, workers)


def keys(manifest: Manifest, epoch: int = 0, consumed: int = 0, **place: int) -> list[list[str]]:
    steps = stream(manifest, **place).epoch(epoch, consumed)
    return [[sample.key for sample in step] for step in steps]


@pytest.fixture(scope="module")
def expected(tiny: Manifest) -> list[list[str]]:
    """Keys of every global batch, from the order's specification."""
    names = [[entry.key for entry in tiny.index(shard)] for shard in tiny.split("train")]
    flat = [names[shard][i] for shard, i in stream(tiny).order.positions(0)]
    return [flat[start : start + IMAGES] for start in range(0, len(flat), IMAGES)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_one_rank_reads_the_order(tiny: Manifest, expected: list[list[str]], workers: int) -> None:
    assert keys(tiny, workers=workers) == expected


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (2, 2), (4, 0), (8, 1)])
def test_ranks_share_the_same_global_batches(
    tiny: Manifest, expected: list[list[str]], world: int, workers: int
) -> None:
    ranks = [keys(tiny, rank=rank, world=world, workers=workers) for rank in range(world)]
    assert {len(steps) for steps in ranks} == {len(expected)}
    for step, batch in enumerate(expected):
        for rank in range(world):
            assert ranks[rank][step] == batch[rank::world]


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_goes_on_where_it_was(
    tiny: Manifest, expected: list[list[str]], workers: int
) -> None:
    for step in range(len(expected) + 1):
        assert keys(tiny, consumed=step * IMAGES, workers=workers) == expected[step:]


def test_epochs_differ(tiny: Manifest) -> None:
    assert keys(tiny, epoch=0) != keys(tiny, epoch=1)


def test_samples_are_whole(tiny: Manifest) -> None:
    for step in stream(tiny).epoch(0):
        for sample in step:
            assert sample.regions.shape == (1 + sample.image_id % 5, 6)
            assert len(sample.captions) == 1 + sample.image_id % 3


def damaged(manifest: Manifest, tmp_path: Path) -> tuple[Manifest, Path]:
    root = tmp_path / "shards"
    shutil.copytree(manifest.root, root)
    copy = Manifest.load(root)
    return copy, root / copy.split("train")[2].name


@pytest.mark.parametrize("part", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_tar_is_named(tiny: Manifest, tmp_path: Path, part: float, workers: int) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    tar.write_bytes(tar.read_bytes()[: int(tar.stat().st_size * part)])
    with pytest.raises(ShardError, match=tar.name):
        keys(manifest, workers=workers)


def test_tar_cut_between_samples_is_named(tiny: Manifest, tmp_path: Path) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    last = manifest.index(manifest.split("train")[2])[-1]
    tar.write_bytes(tar.read_bytes()[: last.offset])
    with pytest.raises(ShardError, match=f"{tar.name}.*expected 8"):
        keys(manifest)


@pytest.mark.parametrize("suffix", ["regions.npy", "json", "concepts.json"])
def test_a_flipped_bit_is_named(tiny: Manifest, tmp_path: Path, suffix: str) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    entry = manifest.index(manifest.split("train")[2])[1]
    data, member = bytearray(tar.read_bytes()), entry.members[suffix]
    data[member.offset + member.size - 1] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ShardError, match=f"{tar.name}.*{entry.key}: {suffix} has another checksum"):
        keys(manifest)


def test_a_tar_of_another_build_is_named(tiny: Manifest, tmp_path: Path) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    shutil.copy(manifest.root / manifest.split("train")[1].name, tar)
    with pytest.raises(ShardError, match=f"{tar.name}: sample 0+\\d+, expected 0+\\d+"):
        keys(manifest)


def test_missing_shard_is_named(tiny: Manifest, tmp_path: Path) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    tar.unlink()
    with pytest.raises(ShardError, match=f"{tar.name}: missing"):
        keys(manifest)


def test_other_feature_width_is_named(tiny: Manifest, tmp_path: Path) -> None:
    manifest, _ = damaged(tiny, tmp_path)
    path = manifest.root / "manifest.json"
    described = json.loads(path.read_text())
    described["features"]["dim"] = 2048
    path.write_text(json.dumps(described))
    with pytest.raises(ShardError, match="6 wide, but the manifest says 2048"):
        keys(Manifest.load(manifest.root))


def test_ranks_that_do_not_divide_the_lanes(tiny: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"3 ranks do not divide 8 lanes.*data\.lanes"):
        stream(tiny, world=3)


def with_concepts(manifest: Manifest, tmp_path: Path, lost: str = "") -> Manifest:
    """The shards with concepts beside them, one for every sample but ``lost``."""
    files = {}
    for shard in manifest.shards:
        keys = [entry.key for entry in manifest.index(shard) if entry.key != lost]
        found = {key: ((f"word{int(key)}", 0.5),) for key in keys}
        files[shard.name] = write_sidecar(tmp_path, shard.name, shard.sha256, found)
    return manifest.with_concepts(ConceptSet(tmp_path, "d", {}, 1, files))


@pytest.mark.parametrize("workers", [0, 2])
def test_concepts_beside_the_tars_stand_for_those_in_them(
    tiny: Manifest, tmp_path: Path, workers: int
) -> None:
    manifest = with_concepts(tiny, tmp_path)
    steps = list(stream(manifest, workers=workers).epoch(0))
    assert sum(map(len, steps)) == 53
    for sample in chain(*steps):
        assert sample.concepts == ((f"word{sample.image_id}", 0.5),)


def test_a_sample_without_its_concepts_is_named(tiny: Manifest, tmp_path: Path) -> None:
    manifest = with_concepts(tiny, tmp_path, lost=f"{20:012d}")
    with pytest.raises(ShardError, match=f"sample {20:012d}: not among the concepts beside"):
        list(stream(manifest).epoch(0))
