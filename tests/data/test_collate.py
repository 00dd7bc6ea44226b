"""Samples to padded batches, and steps to micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from capdist.batch import Batch
from capdist.config import BatchConfig, DataConfig
from capdist.data.collate import Collate
from capdist.data.dataset import captioned, check_needs, count_words, training_batches
from capdist.data.stream import Ranks
from capdist.vocab import BOS, EOS, PAD, Vocabulary
from shards.index import Manifest
from shards.schema import Sample, ShardError
from shards.writer import write
from tests.conftest import WORDS, TinySource, tiny_sample

VOCAB = Vocabulary(WORDS)


def test_padding_is_outside_the_masks() -> None:
    samples = [tiny_sample(0), tiny_sample(4), tiny_sample(8)]
    batch = Collate(VOCAB, max_words=20, max_concepts=3)(samples)
    assert batch.regions.shape == (3, 5, 6)
    assert batch.region_mask.sum(1).tolist() == [1, 5, 4]
    assert batch.concept_mask.sum(1).tolist() == [0, 3, 3]
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(
            batch.regions[i][batch.region_mask[i]].numpy(), sample.regions.astype(np.float32)
        )
    assert not batch.regions[~batch.region_mask].any()


def test_tokens_run_bos_words_eos_pad() -> None:
    sample = tiny_sample(4)
    batch = Collate(VOCAB, 20, 3)([sample, tiny_sample(9)])
    words = [VOCAB.id(word) for word in sample.tokens[0]]
    row = batch.tokens[0, 0].tolist()
    assert row[: len(words) + 2] == [BOS, *words, EOS]
    assert set(row[len(words) + 2 :]) <= {PAD}
    expected = sum(len(c) + 1 for n in (4, 9) for c in tiny_sample(n).tokens)
    assert batch.token_count == expected
    assert batch.caption_count == 2 + 1


def test_a_batch_of_no_weight_has_no_tokens() -> None:
    assert Batch.empty(6).token_count == 0
    assert Batch.empty(6).caption_count == 0


@pytest.mark.parametrize(("world", "micro"), [(1, 16), (2, 8), (2, 3), (4, 1)])
def test_uneven_tails_keep_every_token(tiny: Manifest, world: int, micro: int) -> None:
    vocab = count_words(tiny, 1)
    data = DataConfig(shards=str(tiny.root), lanes=8, window=4, workers=0)
    batch = BatchConfig(images=16, micro=micro)
    ranks = [
        list(training_batches(tiny, data, batch, vocab, Ranks(rank, world), 1).epoch(0))
        for rank in range(world)
    ]
    shapes = {len(step) for steps in ranks for step in steps}
    assert shapes == {batch.accumulation(world)}
    tokens = sum(part.token_count for steps in ranks for step in steps for part in step)
    assert tokens == sum(len(c) + 1 for n in range(53) for c in tiny_sample(n).tokens)


def test_shards_without_what_a_model_reads_are_refused(tiny: Manifest) -> None:
    check_needs(tiny, "train", frozenset({"concepts", "boxes"}), "glied")
    with pytest.raises(ShardError, match="no classes, which model 'x' reads"):
        check_needs(tiny, "train", frozenset({"classes"}), "x")


def test_moving_keeps_everything() -> None:
    batch = Collate(VOCAB, 20, 3)([tiny_sample(3)])
    moved = batch.to("cpu")
    assert moved.keys == batch.keys
    assert torch.equal(moved.tokens, batch.tokens)


def test_an_image_without_captions_is_named(tmp_path: Path) -> None:
    class Bare(TinySource):
        def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
            for sample in super().load(split, ids):
                bare = sample.image_id == 2003
                yield replace(sample, captions=(), tokens=()) if bare else sample

    manifest = write(Bare(sizes=(("test", 5),)), tmp_path, workers=1)
    with pytest.raises(ShardError, match="image 2003 of test has no captions"):
        captioned(manifest, "test")
