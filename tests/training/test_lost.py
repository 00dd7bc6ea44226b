"""What a step may go without: so many damaged samples an epoch, so many remote shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from capdist.config.section import validate
from capdist.config.tree import Config
from capdist.data.places import Ranks
from capdist.training.checkpoint import Cursor
from capdist.training.job import Job
from capdist.training.trainer import Trainer
from shards.remote import LostShard
from shards.schema import ShardError
from tests.training.steps import config

A, B = LostShard("http://a/train-0.tar: 5 tries failed"), LostShard("http://a/train-1.tar: gone")
DAMAGED = ShardError("b/train-3.tar: sample 7: regions.npy has another checksum")


@pytest.fixture
def alone() -> Iterator[Job]:
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield Job(Ranks(), torch.device("cpu"))
    distributed.destroy_process_group()


def trainer(job: Job, run: Path, **limits: int) -> Trainer:
    described = config({"shards": "unused", "engine": "torch", "micro": 16}).model_dump(
        by_alias=True
    )
    described["data"].update(limits)
    parts: dict[str, Any] = dict.fromkeys(
        ("objective", "engine", "batches", "validation", "checkpoints", "journal", "stop")
    )
    whole = validate(Config, {**described, "run": str(run)}, "the config")
    return Trainer(whole, whole.stages[0], **parts, job=job)


def test_a_shard_counts_once(alone: Job, tmp_path: Path) -> None:
    training = trainer(alone, tmp_path, max_bad_shards=1)
    assert training.lose([A, A], Cursor()) == ([str(A)], 0)
    # Said once, however often its samples come up, and in whatever words.
    assert training.lose([LostShard(f"{A} again")], Cursor()) == ([], 0)
    with pytest.raises(
        ShardError,
        match=r"step 1: http://a/train-1\.tar: gone; restore it, or let "
        r"training go on without 2 by --set data\.max_bad_shards=N",
    ):
        training.lose([B], Cursor())


def test_samples_are_counted_by_epoch(alone: Job, tmp_path: Path) -> None:
    training = trainer(alone, tmp_path, max_bad_samples=2)
    assert training.lose([DAMAGED, DAMAGED], Cursor()) == ([str(DAMAGED)] * 2, 2)
    with pytest.raises(ShardError, match=r"sample 7: .*go on without 3 or more by --set data\.max"):
        training.lose([DAMAGED], Cursor(lost=2))
    with pytest.raises(ShardError, match="http://a/train-0"):
        training.lose([A], Cursor())
