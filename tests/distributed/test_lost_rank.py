"""What a step may go without: so many damaged samples an epoch, so many remote shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from capdist.config.run_config import parse_config
from capdist.data.rank_plan import Ranks
from capdist.distributed.process_group import ProcessGroup
from capdist.inference.run_folder import TrainingProgress
from capdist.training.trainer import Trainer
from shards.remote.download import ShardUnavailableError
from shards.schema import ShardError
from tests.support.steps import config

A, B = (
    ShardUnavailableError("http://a/train-0.tar: 5 attempts failed"),
    ShardUnavailableError("http://a/train-1.tar: gone"),
)
DAMAGED = ShardError("b/train-3.tar: sample 7: regions.npy: checksum mismatch")


@pytest.fixture
def alone() -> Iterator[ProcessGroup]:
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield ProcessGroup(Ranks(), torch.device("cpu"))
    distributed.destroy_process_group()


def trainer(job: ProcessGroup, run: Path, **limits: int) -> Trainer:
    described = config({"shards": "unused", "engine": "torch", "micro": 16}).model_dump(
        by_alias=True
    )
    described["data"].update(limits)
    parts: dict[str, Any] = dict.fromkeys(
        ("objective", "engine", "batches", "validation", "checkpoints", "metrics_log", "stop")
    )
    whole = parse_config({**described, "run": str(run)}, "the config")
    return Trainer(whole, whole.stages[0], **parts, job=job)


def test_a_shard_counts_once(alone: ProcessGroup, tmp_path: Path) -> None:
    training = trainer(alone, tmp_path, max_bad_shards=1)
    assert training.lose([A, A], TrainingProgress()) == ([str(A)], 0)
    # Said once, however often its samples come up, and in whatever words.
    assert training.lose([ShardUnavailableError(f"{A} again")], TrainingProgress()) == ([], 0)
    with pytest.raises(
        ShardError,
        match=r"step 1: http://a/train-1\.tar: gone; restore it, or let "
        r"training go on without 2 by --set data\.max_bad_shards=N",
    ):
        training.lose([B], TrainingProgress())


def test_samples_are_counted_by_epoch(alone: ProcessGroup, tmp_path: Path) -> None:
    training = trainer(alone, tmp_path, max_bad_samples=2)
    assert training.lose([DAMAGED, DAMAGED], TrainingProgress()) == ([str(DAMAGED)] * 2, 2)
    with pytest.raises(ShardError, match=r"sample 7: .*go on without 3 or more by --set data\.max"):
        training.lose([DAMAGED], TrainingProgress(lost=2))
    with pytest.raises(ShardError, match="http://a/train-0"):
        training.lose([A], TrainingProgress())
