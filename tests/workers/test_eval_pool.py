"""Workers decode the same captions as one process, whatever crashes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn

from capdist.config.data import DataConfig
from capdist.config.decoding import DecodingConfig
from capdist.models.base import Dims, build
from capdist.workers.base import PoolError
from capdist.workers.eval_pool import SplitDecoding, Workers, decode_split
from shards.manifest import Manifest
from shards.schema import ShardError
from shards.writer import write
from tests.support.pools import at, until
from tests.support.shards import GroundedSource, count_words
from tests.support.toy_split import DAMAGED, DEADLY, Several, ToySplit

GLIED = {"name": "glied", "width": 16, "embedding": 8, "heads": 2, "hidden": 24}
UPDOWN = {"name": "ss_updown", "width": 16, "embedding": 8, "attention": 8}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """37 images in test: 8 batches of 5, the last of 2."""
    source = GroundedSource(sizes=(("train", 53), ("val", 7), ("test", 37)))
    return write(source, tmp_path_factory.mktemp("odd"), samples_per_shard=8, workers=1)


def task(manifest: Manifest, model: dict[str, Any], beam: int, *, boxes: bool) -> SplitDecoding:
    """With random weights that are large enough to make the captions of images differ."""
    vocab = count_words(manifest, 1)
    torch.manual_seed(beam)
    dims = Dims(manifest.features.dim, len(vocab), len(manifest.class_names))
    built = build(model, dims, "here").eval()
    with torch.no_grad():
        for weight in built.parameters():
            nn.init.normal_(weight, 0, 2)
    data = DataConfig(shards=str(manifest.root), lanes=8, workers=0)
    decoding = DecodingConfig(beam=beam, batch=5)
    return SplitDecoding(built, manifest, "test", data, vocab, decoding, boxes)


def decode(task: Any, workers: int, address: str, logged: list[str]) -> list[Any]:
    """The captions of all batches in order; each batch must be returned once."""
    decoded = list(decode_split(task, Workers(workers, 1, at(address)), logged.append))
    assert sorted(number for number, _ in decoded) == list(range(len(decoded)))
    return [part for _, part in sorted(decoded)]


def test_three_workers_equal_one_process(cluster: Any, manifest: Manifest) -> None:
    both = Several((task(manifest, UPDOWN, 3, boxes=True), task(manifest, GLIED, 1, boxes=False)))
    here = decode(both, 0, "", [])
    assert [len(beams) for beams, _ in here] == [5] * 7 + [2]
    assert len({" ".join(caption.words) for part in here for _, (caption, *_) in part[0]}) > 9
    assert here[0][0][0][1][0].boxes
    assert decode(both, 3, cluster.address, []) == here


def kill(folder: Path, count: int) -> None:
    """Kill a worker that has begun, once ``count`` have."""
    until(lambda: len(list(folder.iterdir())) == count)
    os.kill(int(min(folder.iterdir()).name), signal.SIGKILL)


def test_the_part_of_a_killed_worker_is_decoded_by_another(cluster: Any, tmp_path: Path) -> None:
    toy, logged = ToySplit(tmp_path, tuple(range(41))), list[str]()
    killer = Thread(target=kill, args=(tmp_path, 2))
    killer.start()
    assert decode(toy, 2, cluster.address, logged) == list(toy.decode())
    killer.join()
    (line,) = logged
    assert line.startswith("worker ")
    assert (
        " of 2 is lost: its worker process has died; another worker continues from batch " in line
    )


def test_a_batch_that_crashes_every_worker_raises_an_error(cluster: Any, tmp_path: Path) -> None:
    toy = ToySplit(tmp_path, (0, 1, 2, 3, DEADLY, 5))
    with pytest.raises(PoolError, match=r"workers crashed 3 times on batch 5; check whether .*$"):
        decode(toy, 2, cluster.address, [])


def test_exceptions_of_a_worker_are_raised(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"^a.tar: damaged$"):
        decode(ToySplit(tmp_path, (0, 1, DAMAGED)), 1, cluster.address, [])


def test_too_few_cpus_are_reported(cluster: Any, tmp_path: Path) -> None:
    workers = Workers(2, 64, at(cluster.address, 10))
    with pytest.raises(PoolError, match=r"no worker with 64 CPUs was placed within 10 s; free"):
        list(decode_split(ToySplit(tmp_path, (0, 1)), workers, print))
