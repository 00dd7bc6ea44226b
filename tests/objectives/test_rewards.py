"""Document frequencies and references of rewards equal those of all captions in memory."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from capdist.config.data import DataConfig
from capdist.config.stage import BatchConfig
from capdist.data.dataset import captioned, training_batches
from capdist.data.rank_plan import Ranks
from capdist.data.training_captions import TrainingCaptions, read_counts
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.objectives.sampled_captions import pack_references
from capdist.vocab import EOS, Vocabulary, WordIds
from shards import count_captions, ngrams
from shards.manifest import Manifest
from shards.schema import ShardError
from shards.writer import write
from tests.support.caption_sources import Given, made


def in_memory(manifest: Manifest, vocab: Vocabulary, *, end: bool) -> dict[int, list[list[int]]]:
    """All training captions as ids, literally: rare words, in order, have ids from V on."""
    images = captioned(manifest, "train").tokens
    words = sorted({word for image in images.values() for word in chain(*image)} - {*vocab.words})
    rare = {word: len(vocab) + number for number, word in enumerate(words)}
    ends = [EOS] if end else []
    return {
        image: [[*(rare.get(w, vocab.id(w)) for w in caption), *ends] for caption in captions]
        for image, captions in images.items()
    }


@pytest.mark.parametrize("seed", range(10))
def test_document_frequency_equals_that_of_all_captions_bit_for_bit(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(count_captions, "PART", 4)
    monkeypatch.setattr(ngrams, "CHUNK", 8)
    monkeypatch.setattr(ngrams, "_STRIDE", 2)
    captions = made(seed, (1, 2, 9, 30)[seed % 4], special=False)
    manifest = write(Given(captions=captions), tmp_path, samples_per_shard=3, workers=1)
    data = DataConfig(shards=str(tmp_path), min_count=1 + seed % 4)
    counts = read_counts(manifest, data.copies)
    vocab = TrainingCaptions.read(manifest, data).vocab
    if seed % 2:  # a vocabulary of another run, whose words have other ids
        vocab = Vocabulary(["not", "here"]).extended(vocab)
    ids = WordIds(vocab, counts.words)
    of_words = np.array([ids(word) for word in counts.words])
    df = DocumentFrequency.of_ngrams(counts.ngrams(), of_words, counts.images, vocab.hash)
    for found, end in ((df, True), (df.without(EOS), False)):
        expected = DocumentFrequency.count(in_memory(manifest, vocab, end=end), vocab.hash)
        assert (found.images, found.vocabulary) == (expected.images, expected.vocabulary)
        for ours, theirs in ((found.keys, expected.keys), (found.counts, expected.counts)):
            assert ours.dtype == theirs.dtype
            assert ours.tobytes() == theirs.tobytes()
        assert found.hash == expected.hash


@pytest.mark.parametrize("reader", ["mapped", "stream"])
def test_references_that_come_with_batches_are_those_of_all_captions(
    reader: str, tiny: Manifest
) -> None:
    data = DataConfig.model_validate(
        {"shards": str(tiny.root), "min_count": 45, "max_words": 3, "reader": reader, "workers": 0}
    )
    captions = TrainingCaptions.read(tiny, data)
    batches = training_batches(
        tiny,
        data,
        BatchConfig(images=8, micro=3),
        captions.vocab,
        Ranks(),
        1,
        reference_ids=captions.reference_ids,
    )
    expected = in_memory(tiny, captions.vocab, end=True)
    assert any(word >= len(captions.vocab) for word in chain(*chain(*expected.values())))
    for _ in range(2):  # samples that were read before come from memory
        found: dict[int, list[list[int]]] = {}
        for batch in chain.from_iterable(batches.epoch(0)):
            for image, *tokens in pack_references(batch).tolist() if batch.keys else []:
                found.setdefault(image, []).append([token for token in tokens if token >= 0])
        assert found == expected


def test_a_word_that_was_not_counted_is_named() -> None:
    with pytest.raises(ShardError, match="the word 'cat' is not among the counted words of the"):
        WordIds(Vocabulary(["dog"]), ["bird"]).encode(["dog", "bird", "cat"])
