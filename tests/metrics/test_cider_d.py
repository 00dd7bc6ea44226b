"""CIDEr-D equals its reference implementation and pycocoevalcap, and scoring changes no state."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from capdist.metrics.cider_d import CiderD
from capdist.metrics.coco import ScoreError
from capdist.metrics.document_frequency import DocumentFrequency
from tests.support.cider_d_reference import cider_d, document_frequency
from tests.support.random_captions import as_words, made

#: Seeds, images and the longest caption of random cases; 3,630 hypotheses in all.
CASES = [(seed, 1 + seed % 12, 12) for seed in range(450)] + [
    (seed, 20, 40) for seed in range(450, 485)
]


@pytest.mark.parametrize("part", range(5))
def test_equals_the_reference_implementation(part: int) -> None:
    for seed, images, longest in CASES[part::5]:
        references, hypotheses = made(seed, images, longest=longest)
        df = document_frequency(references)
        found = CiderD(references).score(list(hypotheses), list(hypotheses.values()))
        expected = [cider_d(hypotheses[i], references[i], df, images) for i in hypotheses]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("part", range(5))
def test_equals_pycocoevalcap(part: int) -> None:
    for seed, images, longest in CASES[part::5]:
        references, hypotheses = made(seed, images, longest=longest)
        if not any(len(caption) for captions in references.values() for caption in captions):
            continue  # pycocoevalcap fails if no reference has a word
        found = CiderD(references).score(list(hypotheses), list(hypotheses.values()))
        gold = {i: [as_words(caption) for caption in references[i]] for i in references}
        expected = Cider().compute_score(gold, {i: [as_words(hypotheses[i])] for i in hypotheses})
        np.testing.assert_allclose(found, expected[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("sigma", [6.0, 0.5, 40.0])
def test_document_frequency_of_other_images(sigma: float) -> None:
    for seed in range(100):
        training, _ = made(seed, 9)
        references, hypotheses = made(1000 + seed, 5)
        scorer = CiderD(references, sigma=sigma, df=DocumentFrequency.count(training))
        found = scorer.score(list(hypotheses), list(hypotheses.values()))
        df = document_frequency(training)
        expected = [cider_d(hypotheses[i], references[i], df, 9, sigma) for i in hypotheses]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("images", [2, 3, 7, 49, 1000])
def test_words_of_every_image_have_idf_zero(images: int) -> None:
    references = {i: [[5, 6, 7], [5, 6, 100 + i]] for i in range(images)}
    assert CiderD(references).score([0, 1], [[5, 6, 7], [7, 6, 5]]).tolist() == [0.0, 0.0]


def test_a_caption_equal_to_all_references_scores_ten() -> None:
    references = {1: [[4, 5, 6, 7]] * 3, 2: [[8, 9, 10, 11]]}
    np.testing.assert_allclose(CiderD(references).score([1], [[4, 5, 6, 7]]), 10.0, rtol=1e-12)


def test_captions_in_any_order_are_scored_independently() -> None:
    references, hypotheses = made(3, 12)
    scorer = CiderD(references)
    random = np.random.default_rng(1)
    images = random.choice(list(references), 200)
    texts = [hypotheses[i] for i in random.choice(list(references), 200)]
    alone = [scorer.score([i], [text])[0] for i, text in zip(images, texts, strict=True)]
    assert scorer.score(images, texts).tolist() == alone


def test_scoring_changes_no_state() -> None:
    references, hypotheses = made(4, 12, longest=30)
    scorer = CiderD(references)
    before = pickle.dumps(scorer)
    unseen = [[777, 778, *hypotheses[i], 777, 778] for i in hypotheses]
    first = scorer.score(list(hypotheses), unseen)
    assert pickle.dumps(scorer) == before
    assert scorer.score(list(hypotheses), unseen).tobytes() == first.tobytes()


def test_a_pickled_copy_gives_identical_scores() -> None:
    references, hypotheses = made(5, 12)
    scorer = CiderD(references)
    copy = pickle.loads(pickle.dumps(scorer))
    images, texts = list(hypotheses), list(hypotheses.values())
    assert copy.score(images, texts).tobytes() == scorer.score(images, texts).tobytes()


def test_no_captions_give_an_empty_array() -> None:
    found = CiderD({1: [[4]]}).score([], [])
    assert (found.shape, found.dtype) == ((0,), np.float64)


GOOD = {1: [[4, 5]], 2: [[6]]}


@pytest.mark.parametrize(
    ("references", "line"),
    [
        ({}, "no image has references; expected at least one"),
        ({1: [[4]], 7: []}, "image 7 has no reference caption; expected at least one"),
        ({1: [[4]], 8: [[4], [5, -1]]}, "image 8: token id -1 in a caption; expected 0 to 2147"),
        ({1: [[2**31]]}, "image 1: token id 2147483648 in a caption; expected 0 to 2147483647"),
        ({1: [[2**64]]}, "a token id has 64 bits or more; expected 0 to 2147483647"),
    ],
)
def test_invalid_references_are_refused(references: dict[int, list[list[int]]], line: str) -> None:
    with pytest.raises(ScoreError, match=line):
        CiderD(references)


@pytest.mark.parametrize(
    ("images", "texts", "line"),
    [
        ([1, 3], [[4], [4]], "image 3 has no references among the 2 images"),
        ([99], [[4]], "image 99 has no references"),
        ([1, 2], [[4], [5, 2**31]], "image 2: token id 2147483648 in a caption; expected 0 to"),
        ([1], [[-4]], "image 1: token id -4 in a caption; expected 0 to 2147483647"),
        ([1, 2], [[4]], "2 image ids for 1 captions"),
    ],
)
def test_invalid_hypotheses_are_refused(
    images: list[int], texts: list[list[int]], line: str
) -> None:
    with pytest.raises(ScoreError, match=line):
        CiderD(GOOD).score(images, texts)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_invalid_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(ScoreError, match=r"sigma is .*; expected more than 0"):
        CiderD(GOOD, sigma=sigma)
