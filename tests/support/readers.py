"""Batches of a reader, and their comparison."""

from __future__ import annotations

from typing import Any

import torch

from capdist.batch import Batch
from capdist.config.data import DataConfig
from capdist.config.stage import BatchConfig
from capdist.data.batches import Batches
from capdist.data.dataset import training_batches
from capdist.data.rank_plan import Ranks
from capdist.vocab import Vocabulary
from shards.manifest import Manifest
from tests.support.shards import WORDS

IMAGES, VOCAB = 16, Vocabulary(WORDS)


def batches(
    manifest: Manifest,
    reader: str = "mapped",
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    micro: int = IMAGES,
    grounding: bool = True,
) -> Batches:
    data = DataConfig(
        shards="", min_count=1, lanes=8, window=4, reader=reader, workers=workers, max_concepts=3
    )
    sizes, ranks = BatchConfig(images=IMAGES, micro=micro), Ranks(rank, world)
    return training_batches(manifest, data, sizes, VOCAB, ranks, 7, grounding=grounding)


def keys(manifest: Manifest, epoch: int = 0, consumed: int = 0, **how: Any) -> list[list[str]]:
    steps = batches(manifest, **how).epoch(epoch, consumed)
    return [[key for batch in step for key in batch.keys] for step in steps]


def same(found: Batch, expected: Batch) -> None:
    assert found.keys == expected.keys
    for name, tensor in vars(expected).items():
        if isinstance(tensor, torch.Tensor):
            other = getattr(found, name)
            assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape), name
            assert other.numpy().tobytes() == tensor.numpy().tobytes(), name
