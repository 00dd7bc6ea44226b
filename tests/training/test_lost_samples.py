"""How many damaged samples per epoch, and how many remote shards, training may lack."""

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


def make_trainer(group: ProcessGroup, run: Path, **limits: int) -> Trainer:
    described = config({"shards": "unused", "engine": "torch", "micro": 16}).model_dump(
        by_alias=True
    )
    described["data"].update(limits)
    parts: dict[str, Any] = dict.fromkeys(
        ("objective", "engine", "batches", "validator", "checkpoints", "metrics_log", "stop")
    )
    whole = parse_config({**described, "run": str(run)}, "the config")
    return Trainer(whole, whole.stages[0], **parts, group=group)


def test_unavailable_shard_counts_once(alone: ProcessGroup, tmp_path: Path) -> None:
    training = make_trainer(alone, tmp_path, max_bad_shards=1)
    assert training.tolerate([A, A], TrainingProgress()) == ([str(A)], 0)
    # Reported once, whatever the message, however many of its samples are read.
    assert training.tolerate([ShardUnavailableError(f"{A} again")], TrainingProgress()) == ([], 0)
    with pytest.raises(
        ShardError,
        match=r"step 1: http://a/train-1\.tar: gone; restore it, or train without it by adding "
        r"--set data\.max_bad_shards=2; nothing is saved yet",
    ):
        training.tolerate([B], TrainingProgress())


def test_damaged_samples_are_counted_per_epoch(alone: ProcessGroup, tmp_path: Path) -> None:
    training = make_trainer(alone, tmp_path, max_bad_samples=2)
    assert training.tolerate([DAMAGED, DAMAGED], TrainingProgress()) == ([str(DAMAGED)] * 2, 2)
    with pytest.raises(ShardError, match=r"sample 7: .*--set data\.max_bad_samples=3 or more"):
        training.tolerate([DAMAGED], TrainingProgress(lost=2))
    with pytest.raises(ShardError, match="http://a/train-0"):
        training.tolerate([A], TrainingProgress())
    assert TrainingProgress(epoch=1, consumed=9, lost=2).next_epoch() == TrainingProgress(epoch=2)
