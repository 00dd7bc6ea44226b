"""Scores from what each image contributes, and their bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest

from capdist.metrics.coco import score
from capdist.metrics.coco_java import Texts
from capdist.metrics.per_image import METRICS, PerImage, compare, interval
from shards.tokenisers import CaptionText
from tests.support.random_captions import as_words, made

GIVEN = CaptionText("given", "und")


def texts(seed: int, images: int) -> tuple[Texts, Texts]:
    references, captions = made(seed, images)
    numbers = sorted(references)
    gold = {n: [as_words(reference) or "w" for reference in references[n]] for n in numbers}
    return gold, {n: [as_words(captions[n])] for n in numbers}


@pytest.mark.parametrize("seed", range(4))
def test_corpus_scores_are_those_of_pycocoevalcap(seed: int) -> None:
    gold, captions = texts(seed, 40)
    expected = score(gold, {n: caption for n, (caption,) in captions.items()}, text=GIVEN).values
    found = PerImage.of(gold, captions).scores(np.arange(40))
    for metric in METRICS:
        assert found[metric] == pytest.approx(expected[metric], abs=1e-9)


def made_up(seed: int, images: int, ahead: float = 0.0) -> PerImage:
    """Images whose difficulty, a large part of their score, depends on ``images`` alone."""
    hard = np.random.default_rng(images).normal(100, 40, images)
    cider = hard + np.random.default_rng(seed).normal(ahead, 10, images)
    return PerImage({"ROUGE-L": cider / 2, "CIDEr": cider}, np.ones((images, 10)))


def test_an_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    captioner = made_up(1, 2000)
    low, high = interval(captioner)["CIDEr"]
    each = captioner.means["CIDEr"]
    half = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    assert low == pytest.approx(each.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(each.mean() + half, abs=0.15 * half)


def test_the_same_images_are_drawn_for_both() -> None:
    a, b = made_up(1, 500), made_up(2, 500, ahead=2.0)
    found = compare(a, b)["CIDEr"]
    assert found.excludes_zero
    low, high = interval(a)["CIDEr"]
    # Differences of 10 √2 per image, scores of √(40² + 10²).
    assert found.high - found.low < (high - low) / 2
    assert found.low < found.difference < found.high
    same = compare(a, a)["CIDEr"]
    assert (same.low, same.difference, same.high) == (0, 0, 0)
    assert not same.excludes_zero


def test_about_one_of_twenty_equal_pairs_is_called_different() -> None:
    pairs = [(made_up(2 * n, 100), made_up(2 * n + 1, 100)) for n in range(200)]
    wrong = sum(compare(a, b, resamples=200)["CIDEr"].excludes_zero for a, b in pairs)
    assert 2 <= wrong <= 22  # of 200 with probability 0.06: outside once in 1,000 seeds
