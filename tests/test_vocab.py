"""Ids of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from capdist.vocab import BOS, EOS, UNK, Vocabulary

CAPTIONS = [["a", "dog", "runs"], ["a", "cat"], ["a", "dog"], ["zebra"]]


def count(captions: Iterable[list[str]], min_count: int) -> Vocabulary:
    return Vocabulary.frequent(Counter(chain.from_iterable(captions)), min_count)


def test_words_are_sorted_by_frequency_then_alphabetically() -> None:
    vocab = count(CAPTIONS, min_count=1)
    assert vocab.words[4:] == ("a", "dog", "cat", "runs", "zebra")
    assert count(reversed(CAPTIONS), 1).hash == vocab.hash


def test_rare_words_are_unknown() -> None:
    vocab = count(CAPTIONS, min_count=2)
    assert vocab.words[4:] == ("a", "dog")
    assert vocab.encode(["a", "zebra"]) == [BOS, 4, UNK, EOS]


def test_a_clipped_caption_has_no_eos() -> None:
    vocab = count(CAPTIONS, 1)
    assert vocab.encode(["a", "dog", "runs"], 2) == [BOS, 4, 5]
    assert vocab.encode(["a", "dog"], 2) == [BOS, 4, 5, EOS]


def test_decoding_stops_at_eos() -> None:
    vocab = count(CAPTIONS, 1)
    assert vocab.decode([BOS, 4, 5, EOS, 6, 6]) == ["a", "dog"]


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    vocab = count(CAPTIONS, 1)
    vocab.save(tmp_path / "vocab.json")
    assert Vocabulary.load(tmp_path / "vocab.json").hash == vocab.hash
