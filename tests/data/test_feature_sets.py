"""Batches of one or several feature sets, from every reader, against the sets' own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from capdist.batch import Batch
from capdist.config.data import DataConfig, ShardSet
from capdist.data.mixture import load_shards
from capdist.data.residency import ResidentRegions, batch_bytes
from shards.manifest import Manifest
from shards.remote.cache import Cache
from shards.schema import RegionSet, ShardError
from shards.write_set import write_set
from shards.writer import write
from tests.support.faulty_server import serving
from tests.support.readers import batches, same
from tests.support.shards import GridSource, TinySource, tiny_sample

LACKING, DIM = 4, 6
CHOICES = (("grid",), ("regions", "grid"), ("small", "regions", "grid"), ("grid", "small"))
SMALL = GridSource(dim=DIM, name="small", seed=3)
GRID = GridSource(dim=4, lacking=LACKING, scale=(0.5, 0.25, 1.0, 2.0))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The tiny shards with the sets small, as wide as the own one, and grid, int8 and narrower."""
    root: Path = tmp_path_factory.mktemp("several")
    write(TinySource(), root, samples_per_shard=9, workers=1)
    write_set(root, SMALL, workers=1)
    return write_set(root, GRID, workers=1)


def of_image(name: str, image: int) -> RegionSet | None:
    """A set's features as floats, from their source."""
    if name == "regions":
        sample = tiny_sample(image)
        return RegionSet(sample.regions, sample.boxes)
    if name == "small":
        return SMALL.cells(image)
    if image < LACKING:
        return None
    cells = GRID.cells(image)
    return RegionSet(cells.regions * np.array(GRID.scale, np.float32), cells.boxes)


def check(batch: Batch, names: tuple[str, ...]) -> None:
    """Compare a batch with the sets one after the other, padded."""
    for row, image in enumerate(batch.image_ids.tolist()):
        at = 0
        for number, name in enumerate(names):
            if found := of_image(name, image):
                count, width = found.regions.shape
                of_set = slice(at, at + count)
                regions = batch.regions[row, of_set].numpy()
                np.testing.assert_array_equal(regions[:, :width], found.regions)
                assert (regions[:, width:] == 0).all()
                np.testing.assert_array_equal(batch.boxes[row, of_set].numpy(), found.boxes)
                assert (batch.region_sets[row, of_set] == number).all()
                at += count
        assert batch.region_mask[row, :at].all()
        for rest in (batch.region_mask, batch.regions, batch.boxes, batch.region_sets):
            assert not rest[row, at:].any()


@pytest.mark.parametrize("names", CHOICES)
@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0)])
def test_every_reader_reads_the_sets_bit_for_bit(
    several: Manifest, reader: str, names: tuple[str, ...], world: int, workers: int
) -> None:
    manifest, seen = several.reading(names), 0
    if names[0] == "grid":
        manifest = _of_images_with_grid(manifest)
    for rank in range(world):
        read = batches(manifest, reader, rank, world, workers, micro=3)
        for epoch in (0, 1):  # in the second, counts and offsets are remembered
            for batch in (batch for step in read.epoch(epoch) for batch in step):
                if batch.keys:
                    check(batch, names)
                else:
                    same(batch, Batch.empty(read.reader.store.width))
                seen += len(batch.keys)
    assert seen == 2 * sum(shard.samples for shard in manifest.split("train"))


def _of_images_with_grid(manifest: Manifest) -> Manifest:
    """Without the shard whose first images lack the grid."""
    return replace(manifest, shards=manifest.shards[1:])


def test_image_without_the_first_set_is_named(several: Manifest, reader: str) -> None:
    read = batches(several.reading(("grid",)), reader, micro=3)
    with pytest.raises(ShardError, match=r"sample 0+\d: has no feature set 'grid'"):
        list(read.epoch(0))


def test_resident_regions_of_several_sets(several: Manifest) -> None:
    manifest = several.reading(CHOICES[2])
    resident = ResidentRegions(batch_bytes(manifest, "train"), torch.device("cpu"))
    kept = replace(batches(manifest, micro=3), resident=resident)
    for epoch in range(2):
        for step, others in zip(
            kept.epoch(epoch), batches(manifest, micro=3).epoch(epoch), strict=True
        ):
            for batch, other in zip(step, others, strict=True):
                same(batch, other)


def test_remote_tars_of_sets_are_fetched_only_if_they_are_read(
    several: Manifest, tmp_path: Path
) -> None:
    with serving(several.root) as server:
        remote = Manifest.load(server.url, Cache(tmp_path)).reading(("small", "regions"))
        for step in batches(remote, "auto", micro=3, grounding=False).epoch(0):
            for batch in step:
                if batch.keys:
                    check(batch, ("small", "regions"))
        fetched = server.count()
    train = [shard.name for shard in several.split("train")]
    small = [name.replace(".tar", ".small.tar") for name in train]
    assert {name: fetched[name] for name in train + small} == dict.fromkeys(train + small, 1)
    assert not any(".grid." in name for name in fetched)


@dataclass(frozen=True)
class Later(TinySource):
    """Other images."""

    def splits(self) -> dict[str, Sequence[int]]:
        return {"train": range(5000, 5020)}


def test_mixed_sets_of_shards_give_their_own_features(several: Manifest, tmp_path: Path) -> None:
    write(Later(), tmp_path / "later", samples_per_shard=7, workers=1)
    with pytest.raises(ShardError, match="no feature set 'small', expected one of regions"):
        Manifest.load(tmp_path / "later").reading(("small",))
    write_set(tmp_path / "later", SMALL, workers=1)
    names, folders = ("small", "regions"), (str(several.root), str(tmp_path / "later"))
    shards = tuple(ShardSet(shards=folder) for folder in folders)
    mixed = load_shards(DataConfig(shards=shards), names)
    seen = set()
    for step in batches(mixed, micro=3).epoch(0):
        for batch in step:
            if batch.keys:
                check(batch, names)
                seen |= set(batch.image_ids.tolist())
    assert seen == {*range(53), *range(5000, 5020)}


def test_no_byte_of_a_set_that_is_not_read_is_read(several: Manifest, reader: str) -> None:
    """The tars of the others may be missing, and regions in the samples' own tar damaged."""
    root = Path(several.root).parent / f"copy-{reader}"
    write(TinySource(), root, samples_per_shard=9, workers=1)
    write_set(root, SMALL, workers=1)
    manifest = write_set(root, GRID, workers=1)
    for tar in root.glob("*.grid.*"):
        tar.unlink()
    only_own = [b for step in batches(manifest, reader, micro=3).epoch(0) for b in step]
    assert sum(len(batch.keys) for batch in only_own) == 53
    for shard in manifest.split("train"):
        path = root / shard.name
        data = bytearray(path.read_bytes())
        for entry in manifest.index(shard):
            member = entry.members["regions.npy"]
            data[member.offset + member.size - 1] ^= 255
        path.write_bytes(data)
    for step in batches(manifest.reading(("small",)), reader, micro=3).epoch(0):
        for batch in step:
            if batch.keys:
                check(batch, ("small",))
    with pytest.raises(ShardError, match="checksum mismatch"):
        list(batches(manifest, reader, micro=3).epoch(0))


def test_tar_of_other_samples_is_refused(several: Manifest, reader: str) -> None:
    """Two tars of a set that have exchanged their places have right checksums."""
    root = Path(several.root).parent / f"swapped-{reader}"
    write(TinySource(), root, samples_per_shard=9, workers=1)
    manifest = write_set(root, SMALL, workers=1)
    for ending in ("tar", "index.json"):
        first, second = (root / f"train-0000{n}.small.{ending}" for n in (1, 2))
        first.rename(root / "aside")
        second.rename(first)
        (root / "aside").rename(second)
    read = batches(manifest.reading(("regions", "small")), reader, micro=3)
    errors = [str(error) for step in read.steps(0) for error in step.errors]
    assert len(errors) == 2 * 9
    assert any(
        "sample 000000000009: train-00001.small.tar has sample 000000000018 in its place" in error
        for error in errors
    )


def test_damage_in_a_further_set_names_its_sample(several: Manifest, reader: str) -> None:
    root = Path(several.root).parent / f"damaged-{reader}"
    write(TinySource(), root, samples_per_shard=9, workers=1)
    manifest = write_set(root, SMALL, workers=1)
    tar = manifest.further[0].tar_of(manifest.shards[0])
    member = manifest.index(tar)[2].members["regions.npy"]
    data = bytearray((root / tar.name).read_bytes())
    data[member.offset + member.size - 1] ^= 1
    (root / tar.name).write_bytes(data)
    read = batches(manifest.reading(("regions", "small")), reader, micro=3)
    steps = list(read.steps(0))
    errors = [str(error) for step in steps for error in step.errors]
    assert len(errors) == 1
    assert "sample 000000000002: regions.npy: checksum mismatch" in errors[0]
    assert sum(len(batch.keys) for step in steps for batch in step.batches) == 52
