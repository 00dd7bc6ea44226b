"""What the reader touches: of a set whose other samples are damaged, it takes no notice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from capdist.config.data import DataConfig
from capdist.config.stage import BatchConfig
from capdist.data.batches import Batches
from capdist.data.dataset import training_batches
from capdist.data.order import Order
from capdist.data.rank_plan import Ranks
from capdist.vocab import Vocabulary
from shards.index import index_path
from shards.manifest import Manifest
from shards.schema import ShardError
from shards.writer import write
from tests.support.shards import WORDS, TinySource

IMAGES, LANES, WINDOW = 10, 4, 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    source = TinySource(sizes=(("train", 160),))
    return write(source, tmp_path_factory.mktemp("whole"), samples_per_shard=8, workers=1)


@pytest.fixture
def copy(whole: Manifest, tmp_path: Path) -> Manifest:
    shutil.copytree(whole.root, tmp_path / "copy")
    return Manifest.load(tmp_path / "copy")


def batches(manifest: Manifest, reader: str = "stream") -> Batches:
    data = DataConfig(
        shards=str(manifest.root), reader=reader, lanes=LANES, window=WINDOW, workers=0
    )
    batch = BatchConfig(images=IMAGES, micro=IMAGES)
    return training_batches(manifest, data, batch, Vocabulary(list(WORDS)), Ranks(), 7)


def keys(manifest: Manifest, reader: str = "stream", step: int = 0) -> list[list[str]]:
    steps = batches(manifest, reader).epoch(0, step * IMAGES)
    return [list(batch.keys) for (batch,) in steps]


def in_use(order: Order, first: int, last: int) -> set[tuple[int, int]]:
    """Samples of the blocks that positions first..last-1 lie in."""
    found = set()
    for lane in range(order.lanes):
        spans = order.lane_spans(0, lane)
        read = [(span.shard, i) for span in spans for i in range(span.start, span.stop)]
        places = [p // order.lanes for p in range(first, last) if p % order.lanes == lane]
        blocks = {place // order.window for place in places}
        found |= {place for i, place in enumerate(read) if i // order.window in blocks}
    return found


@pytest.mark.parametrize("reader", ["stream", "mapped"])
@pytest.mark.parametrize("step", [3, 8, 15])
def test_resuming_reads_one_block_of_each_lane_again(
    whole: Manifest, copy: Manifest, reader: str, step: int
) -> None:
    needed = in_use(batches(whole).plan.order, step * IMAGES, 160)
    assert len(needed) <= 160 - step * IMAGES + LANES * (WINDOW - 1)
    for number, shard in enumerate(copy.split("train")):
        data = bytearray(copy.tar_path(shard).read_bytes())
        for place, entry in enumerate(copy.index(shard)):
            for member in entry.members.values():
                if (number, place) not in needed:
                    data[member.offset : member.offset + member.size] = bytes(member.size)
        copy.tar_path(shard).write_bytes(data)
    assert keys(copy, reader, step) == keys(whole)[step:]
    with pytest.raises(ShardError, match="checksum mismatch"):
        keys(copy, reader)


def test_an_index_is_read_with_its_shard(whole: Manifest, copy: Manifest) -> None:
    needed = {shard for shard, _ in in_use(batches(whole).plan.order, 0, IMAGES)}
    assert len(needed) < 10 < len(copy.shards)
    for number, shard in enumerate(copy.split("train")):
        if number not in needed:
            index_path(copy.tar_path(shard)).unlink()
    steps = batches(copy).epoch(0)
    assert list(next(steps)[0].keys) == keys(whole)[0]
    with pytest.raises(ShardError, match=r"index\.json: missing"):
        list(steps)
