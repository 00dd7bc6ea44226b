"""Counts equal those of a dictionary, and a file belongs to one vocabulary."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from capdist.metrics.coco import ScoreError
from capdist.metrics.document_frequency import DocumentFrequency
from tests.support.cider_d_reference import document_frequency
from tests.support.random_captions import made


def test_counts_equal_those_of_a_dictionary() -> None:
    for seed in range(200):
        references, hypotheses = made(seed, 1 + seed % 15, longest=8)
        expected = document_frequency(references)
        df = DocumentFrequency.count(references)
        assert df.images == len(references)
        assert len(df.counts) == sum(count >= 2 for count in expected.values())
        unseen = document_frequency({0: list(hypotheses.values())})
        for ngram in chain(expected, unseen):
            assert df.frequency(ngram) == max(1, expected[ngram])


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    df = DocumentFrequency.count(made(1, 15)[0], "words")
    df.save(tmp_path / "df.npz")
    loaded = DocumentFrequency.load(tmp_path / "df.npz", "words")
    assert loaded.keys.tolist() == df.keys.tolist()
    assert loaded.counts.tolist() == df.counts.tolist()
    assert (loaded.images, loaded.vocabulary, loaded.hash) == (15, "words", df.hash)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    DocumentFrequency.count({1: [[4]]}, "words").save(tmp_path / "df.npz")
    with pytest.raises(ScoreError, match=r"df\.npz: counted for vocabulary words, but .* others"):
        DocumentFrequency.load(tmp_path / "df.npz", "others")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"df\.npz: no such file; count and save it first"):
        DocumentFrequency.load(tmp_path / "df.npz", "words")


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "df.npz"
    DocumentFrequency.count(made(1, 15)[0], "words").save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    for damaged in (b"", b"text", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(ScoreError, match=r"df\.npz: not a document frequency, or damaged"):
            DocumentFrequency.load(path, "words")


def test_the_hash_depends_on_the_content_only() -> None:
    references, _ = made(2, 6)
    backwards = {i: references[i][::-1] for i in reversed(list(references))}
    df = DocumentFrequency.count(references, "words")
    assert DocumentFrequency.count(backwards, "words").hash == df.hash
    others = [
        DocumentFrequency.count(references, "others"),
        DocumentFrequency.count({**references, 1001: [[0]]}, "words"),
        DocumentFrequency.count({i: [[1, 2]] for i in references}, "words"),
    ]
    assert len({df.hash, *(other.hash for other in others)}) == 4
