"""Samples to padded batches, and steps to micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capdist.batch import Batch
from capdist.config.data import DataConfig
from capdist.config.stage import BatchConfig
from capdist.data.collate import Collate
from capdist.data.dataset import captioned, check_needs, training_batches
from capdist.data.encoded_sample import SampleEncoder
from capdist.data.rank_plan import Ranks
from capdist.vocab import BOS, EOS, PAD, Vocabulary
from shards.manifest import Manifest
from shards.schema import CLASS_DTYPE, Phrase, Sample, ShardError
from shards.writer import write
from tests.support.shards import WORDS, TinySource, count_words, tiny_sample

VOCAB = Vocabulary(WORDS)


def collate(**changes: Any) -> Collate:
    return Collate(SampleEncoder(VOCAB, max_words=20, max_concepts=3, **changes))


def test_padding_is_outside_the_masks() -> None:
    samples = [tiny_sample(0), tiny_sample(4), tiny_sample(8)]
    batch = collate()(samples)
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
    batch = collate()([sample, tiny_sample(9)])
    words = [VOCAB.id(word) for word in sample.tokens[0]]
    row = batch.tokens[0, 0].tolist()
    assert row[: len(words) + 2] == [BOS, *words, EOS]
    assert set(row[len(words) + 2 :]) <= {PAD}
    expected = sum(len(c) + 1 for n in (4, 9) for c in tiny_sample(n).tokens)
    assert batch.token_count == expected
    assert batch.caption_count == 2 + 1


def with_classes(number: int, ids: list[int]) -> Sample:
    """A sample whose regions all have these classes, the first one's likelier by the region."""
    sample = tiny_sample(number)
    classes = np.zeros((len(sample.regions), len(ids)), CLASS_DTYPE)
    classes["id"] = ids
    classes["prob"] = 0.5 / (1 + np.arange(classes.size).reshape(classes.shape))
    return replace(sample, classes=classes)


def test_classes_are_those_of_their_regions() -> None:
    samples = [with_classes(4, [3, 1, 2]), with_classes(1, [0, 4])]
    batch = collate(classes=5)(samples)
    assert batch.class_ids.shape == batch.class_probs.shape == (2, 5, 3)
    for i, sample in enumerate(samples):
        assert sample.classes is not None
        kept = sample.classes.shape[1]
        real = batch.region_mask[i]
        np.testing.assert_array_equal(batch.class_ids[i][real][:, :kept], sample.classes["id"])
        np.testing.assert_array_equal(batch.class_probs[i][real][:, :kept], sample.classes["prob"])
    assert not batch.class_probs[1, :, 2:].any()
    assert not batch.class_probs[~batch.region_mask].any()


def test_classes_without_names_are_dropped() -> None:
    assert collate()([with_classes(4, [3])]).class_ids.shape == (1, 5, 0)
    assert collate(classes=5)([tiny_sample(4)]).class_ids.shape == (
        1,
        5,
        0,
    )


@pytest.mark.parametrize(("ids", "wrong"), [([1, 5], 5), ([-1, 2], -1)])
def test_class_ids_without_names_are_refused(ids: list[int], wrong: int) -> None:
    samples = [with_classes(4, [0]), with_classes(7, ids)]
    with pytest.raises(ShardError, match=f"sample 0+7: class id {wrong}, expected 0 to 4"):
        collate(classes=5)(samples)


def test_a_sample_without_its_classes_is_refused() -> None:
    with pytest.raises(ShardError, match=r"sample 0+7: classes\.npy is missing"):
        collate(classes=5)([with_classes(4, [0]), tiny_sample(7)])


def test_objects_have_the_index_of_their_caption() -> None:
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    phrases = (Phrase(1, 0, 1, 0, "dog", (left, right)), Phrase(0, 0, 1, 0, "cat", (right,)))
    samples = [replace(tiny_sample(3), grounding=()), replace(tiny_sample(4), grounding=phrases)]
    batch = collate()(samples)
    assert batch.object_captions.tolist() == [[-1, -1, -1], [1, 1, 0]]
    assert batch.objects[1].tolist() == [list(left), list(right), list(right)]
    assert collate()(samples[:1]).objects.shape == (1, 0, 4)


def test_objects_have_the_words_and_the_class_of_their_phrase() -> None:
    box = (0.0, 0.0, 0.5, 1.0)
    phrases = (
        Phrase(0, 1, 4, 2, "dog", (box, box)),
        Phrase(0, 0, 1, 0, "unicorn", (box,)),
        Phrase(0, 2, 3, 2, "people", ()),
    )
    samples = [replace(tiny_sample(4), grounding=phrases), replace(tiny_sample(3), grounding=())]
    batch = collate(class_names=("background", "dog"))(samples)
    assert batch.object_words.tolist() == [[[1, 4, 2], [1, 4, 2], [0, 1, 0]], [[0, 0, 0]] * 3]
    assert batch.object_classes.tolist() == [[1, 1, -1], [-1, -1, -1]]


def test_a_sample_without_its_grounding_is_refused() -> None:
    samples = [replace(tiny_sample(4), grounding=()), tiny_sample(7)]
    with pytest.raises(ShardError, match=r"sample 0+7: grounding\.json is missing"):
        collate()(samples)


def test_grounding_is_read_only_if_requested(tmp_path: Path) -> None:
    box = (0.25, 0.0, 0.5, 1.0)

    class Grounded(TinySource):
        def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
            for sample in super().load(split, ids):
                yield replace(sample, grounding=(Phrase(0, 0, 2, 1, "dog", (box,)),))

    manifest = write(Grounded(sizes=(("train", 5),)), tmp_path, workers=1)
    vocab, data = count_words(manifest, 1), DataConfig(shards="", lanes=1, workers=0)
    sizes = BatchConfig(images=5, micro=5)
    for grounding in (False, True):
        batches = training_batches(manifest, data, sizes, vocab, Ranks(), 1, grounding=grounding)
        ((batch,),) = batches.epoch(0)
        assert batch.objects.tolist() == ([[list(box)]] * 5 if grounding else [[]] * 5)


def test_the_empty_batch_has_no_tokens() -> None:
    assert Batch.empty(6).token_count == 0
    assert Batch.empty(6).caption_count == 0


@pytest.mark.parametrize(("world", "micro"), [(1, 16), (2, 8), (2, 3), (4, 1)])
def test_uneven_last_steps_keep_every_token(tiny: Manifest, world: int, micro: int) -> None:
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


def test_shards_without_a_needed_member_are_refused(tiny: Manifest) -> None:
    check_needs(tiny, "train", frozenset({"concepts", "boxes"}), "glied")
    with pytest.raises(ShardError, match="no classes, which model 'x' reads"):
        check_needs(tiny, "train", frozenset({"classes"}), "x")


def test_classes_must_have_names(tmp_path: Path) -> None:
    class Nameless(TinySource):
        def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
            yield from (with_classes(number, [0]) for number in ids)

    manifest = write(Nameless(sizes=(("train", 2),)), tmp_path, workers=1)
    with pytest.raises(ShardError, match=r"its classes have no names.*--class-names"):
        check_needs(manifest, "train", frozenset({"classes"}), "x")


def test_moving_to_a_device_keeps_all_fields() -> None:
    batch = collate()([tiny_sample(3)])
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
