"""Shards on a server give the batches of their folder; one that is lost takes its samples along."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from shards.manifest import Manifest
from shards.remote.cache import Cache
from shards.remote.download import RetryPolicy, ShardUnavailableError
from tests.support.faulty_server import Server, serving
from tests.support.readers import batches, keys, same

TRIES = 2


@pytest.fixture
def server(tiny: Manifest) -> Iterator[Server]:
    with serving(tiny.root) as server:
        yield server


@pytest.fixture
def remote(server: Server, tmp_path: Path) -> Manifest:
    return Manifest.load(server.url, Cache(tmp_path, retry=RetryPolicy(TRIES, backoff_s=0.01)))


@pytest.mark.parametrize(("reader", "workers"), [("auto", 2), ("mapped", 0)])
def test_remote_batches_equal_local_ones(
    tiny: Manifest, remote: Manifest, server: Server, reader: str, workers: int
) -> None:
    expected = chain.from_iterable(batches(tiny, grounding=False).epoch(0))
    read = batches(remote, reader, workers=workers, grounding=False)
    for found, batch in zip(chain.from_iterable(read.epoch(0)), expected, strict=True):
        same(found, batch)
    assert set(server.count().values()) == {1}


def test_auto_streams_remote_shards(tiny: Manifest, remote: Manifest) -> None:
    kinds = [type(batches(m, "auto").reader).__name__ for m in (tiny, remote)]
    assert kinds == ["MappedReader", "StreamReader"]


@pytest.mark.parametrize("reader", ["stream", "mapped"])
def test_an_unavailable_shard_is_requested_once(
    tiny: Manifest, remote: Manifest, server: Server, reader: str
) -> None:
    shard = tiny.split("train")[1]
    server.faults[shard.name] = ["503"] * 99
    gone = {entry.key for entry in tiny.index(shard)}
    steps = list(batches(remote, reader, grounding=False).steps(0))
    found = [[key for batch in step.batches for key in batch.keys] for step in steps]
    assert found == [[key for key in step if key not in gone] for step in keys(tiny)]
    lost = [error for step in steps for error in step.errors]
    assert len(lost) == len(gone)
    assert all(isinstance(error, ShardUnavailableError) for error in lost)
    assert {str(error).partition(": ")[0] for error in lost} == {f"{server.url}/{shard.name}"}
    # And ahead of its turn, beside the reader.
    assert server.count()[shard.name] <= 2 * TRIES
