import random

import pytest

from capdist.metrics import constant
from capdist.metrics.coco import ScoreError, cider
from capdist.metrics.constant import constant_caption

WORDS = ["a", "man", "dog", "cat", "horse", "riding", "on", "the", "red", "big", "and"]


def make_train(images, seed=0):
    draw = random.Random(seed)
    return {
        key: [
            [draw.choice(WORDS) for _ in range(draw.randint(1, 9))]
            for _ in range(draw.randint(1, 4))
        ]
        for key in range(images)
    }


def test_candidate_scores_equal_cider_of_that_caption_for_every_image():
    train = make_train(23)
    references = constant._References(list(train.values()))
    for caption in (["a", "man"], ["a", "a", "a", "dog"], ["unseen"], ["dog"], train[3][0]):
        expected = cider(train, dict.fromkeys(train, caption))
        assert 100 * references.mean_cider(tuple(caption)) == pytest.approx(expected, abs=1e-9)


def test_best_of_all_captions_is_found():
    train = make_train(12, seed=3)
    everyone = {tuple(caption) for captions in train.values() for caption in captions}
    best = max(cider(train, dict.fromkeys(train, caption)) for caption in everyone)
    found = constant_caption(train, candidates=len(everyone))
    assert cider(train, dict.fromkeys(train, found)) == pytest.approx(best)
    assert tuple(found) in everyone


def test_same_seed_gives_the_same_caption_whatever_the_order_of_images():
    train = make_train(40)
    backwards = dict(reversed(train.items()))
    assert constant_caption(train, candidates=5, seed=7) == constant_caption(
        backwards, candidates=5, seed=7
    )


def test_no_captions_is_refused():
    with pytest.raises(ScoreError, match="no training caption has a word"):
        constant_caption({1: [[]]})
