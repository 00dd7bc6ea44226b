"""The vocabulary and what is lost of the training captions, counted by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from capdist.config.base import ConfigError
from capdist.config.data import DataConfig
from capdist.data.training_captions import TrainingCaptions
from capdist.vocab import Vocabulary
from shards.manifest import Manifest
from shards.schema import Sample
from shards.writer import write
from tests.support.shards import TinySource

CAPTIONS = ("a dog", "a dog runs fast", "a cat", "a red dog", "birds")


@dataclass(frozen=True)
class OneCaptionEach(TinySource):
    sizes: tuple[tuple[str, int], ...] = (("train", len(CAPTIONS)),)

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            text = CAPTIONS[sample.image_id]
            yield replace(sample, captions=(text,), tokens=(tuple(text.split()),))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write(OneCaptionEach(), tmp_path_factory.mktemp("captions"), workers=1)


def read(shards: Manifest, min_count: int, max_words: int) -> TrainingCaptions:
    data = DataConfig(shards=str(shards.root), min_count=min_count, max_words=max_words)
    return TrainingCaptions.read(shards, data)


def test_what_is_lost_of_the_captions_is_said_in_shares(shards: Manifest) -> None:
    found = read(shards, min_count=2, max_words=2)
    assert found.vocab.words[4:] == ("a", "dog")
    assert (found.captions, found.clipped, found.single) == (5, 2, 1)
    # runs, fast, cat, red and birds
    assert found.unknown == 5 / 12
    assert replace(found, vocab=Vocabulary(["birds"])).unknown == 11 / 12
    share, clipped, unknown, single = found.lines()
    assert share == (
        "training captions: 5, 40.0 % clipped to data.max_words 2; 41.7 % of their tokens are UNK "
        "(data.min_count 2)"
    )
    assert clipped == "warning: 40.0 % of the captions lose their end; raise data.max_words"
    assert unknown.startswith("warning: 41.7 % of the tokens are UNK")
    assert single.startswith("warning: 20.0 % of the captions are one token; if they are sentences")


def test_small_shares_are_not_warned_of(shards: Manifest) -> None:
    lines = list(replace(read(shards, 1, 20), single=0).lines())
    assert len(lines) == 1
    assert "0.0 % clipped to data.max_words 20; 0.0 % of their tokens are UNK" in lines[0]


def test_a_vocabulary_of_special_tokens_only_is_refused(shards: Manifest) -> None:
    read(shards, 4, 20).check_words("x.json")
    expected = (
        r"^x\.json: data\.min_count: no word of the 5 .* 5 times; .* 'a', occurs 4 times: low"
    )
    with pytest.raises(ConfigError, match=expected):
        read(shards, 5, 20).check_words("x.json")


def test_captions_that_are_all_clipped_are_refused(shards: Manifest) -> None:
    read(shards, 1, 1).check_ends("x.json")  # one caption has one word
    clipped = replace(read(shards, 1, 1), clipped=5)
    with pytest.raises(ConfigError, match=r"x\.json: data\.max_words: all 5 training captions"):
        clipped.check_ends("x.json")
