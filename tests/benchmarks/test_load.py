"""The readers and peers of ``bench.py load`` read the same images as complete batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.load import READERS, cold_start, reader
from benchmarks.load_corpus import Corpus, many_shards
from benchmarks.load_peers import (
    BareDali,
    CopyFloor,
    hdf5,
    lmdb,
    npz,
    shuffled,
    webdataset,
)
from capdist.batch import Batch

IMAGES, BATCH = 70, 32


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    for name in ("h5py", "lmdb", "nvidia.dali"):
        pytest.importorskip(name, reason="pip install -e '.[bench,dali]' for the peers")
    return Corpus.make(tmp_path_factory.mktemp("corpus"), IMAGES)


@pytest.fixture(scope="module")
def images(corpus: Corpus) -> dict[int, Any]:
    """Regions, boxes and captions of every image from the mapped reader."""
    arrays_of = {}
    for (batch,) in reader(corpus.manifest, "mapped").epoch():
        for row, image in enumerate(batch.image_ids.tolist()):
            arrays = batch.regions[row], batch.boxes[row], batch.tokens[row]
            arrays_of[image] = [array.numpy().copy() for array in arrays]
    return arrays_of


def check(batches: list[Any], order: list[int], images: dict[int, Any]) -> None:
    assert sum(len(batch[0]) for batch in batches) >= len(order) == IMAGES
    rows = [row for batch in batches for row in zip(*batch, strict=False)]
    for image, (features, boxes, mask, words) in zip(order, rows, strict=False):
        regions, expected_boxes, tokens = images[image]
        assert mask.all()
        assert features.dtype == np.float16
        np.testing.assert_array_equal(features, regions)
        np.testing.assert_array_equal(boxes, expected_boxes)
        for found, expected in zip(words, tokens, strict=True):
            assert found[found > 0].tolist() == expected[expected > 0].tolist()


@pytest.mark.parametrize("peer", [npz, hdf5, lmdb])
def test_shuffling_peers_read_the_same_batches(
    corpus: Corpus, images: dict[int, Any], peer: Any
) -> None:
    order = [number for batch in shuffled(corpus, BATCH) for number in batch]
    assert sorted(order) == list(range(IMAGES))
    check(list(peer(corpus, BATCH)), order, images)


def test_sequential_peers_read_the_same_batches(
    corpus: Corpus, images: dict[int, Any], tmp_path: Path
) -> None:
    check(list(webdataset(corpus, BATCH)), list(range(IMAGES)), images)
    bare = BareDali(corpus, BATCH, tmp_path / "idx")
    batches = [tuple(array.copy() for array in batch) for batch in bare.epoch()]
    check(batches, list(range(IMAGES)), images)


def test_the_floor_copies_the_regions(corpus: Corpus, images: dict[int, Any]) -> None:
    for numbers, buffer in zip(
        shuffled(corpus, BATCH), CopyFloor(corpus, BATCH).epoch(), strict=True
    ):
        for row, number in enumerate(numbers):
            assert buffer[row].tobytes() == images[number][0].tobytes()


@pytest.mark.parametrize("name", READERS)
def test_readers_read_every_image(corpus: Corpus, name: str) -> None:
    epochs = reader(corpus.manifest, name)
    for _ in range(2):
        batches: list[Batch] = [batch for step in epochs.epoch() for batch in step]
        assert sorted(i for b in batches for i in b.image_ids.tolist()) == list(range(IMAGES))


def test_cold_start_with_many_shards(tmp_path: Path) -> None:
    assert cold_start(many_shards(tmp_path, 5, 20)) > 0
