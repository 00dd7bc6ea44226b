import random

import pytest

from capdist.metrics import constant
from capdist.metrics.coco import ScoreError, cider
from capdist.metrics.constant import constant_caption

WORDS = ["a", "man", "dog", "cat", "horse", "riding", "on", "the", "red", "big", "and"]


def make_train(images, seed=0):
    rng = random.Random(seed)
    return {
        key: [
            [rng.choice(WORDS) for _ in range(rng.randint(1, 9))] for _ in range(rng.randint(1, 4))
        ]
        for key in range(images)
    }


def test_candidate_scores_equal_cider():
    train = make_train(23)
    references = constant._References(list(train.values()))
    for caption in (["a", "man"], ["a", "a", "a", "dog"], ["unseen"], ["dog"], train[3][0]):
        expected = cider(train, dict.fromkeys(train, caption))
        assert 100 * references.mean_cider(tuple(caption)) == pytest.approx(expected, abs=1e-9)


def test_the_best_caption_is_returned():
    train = make_train(12, seed=3)
    every = {tuple(caption) for captions in train.values() for caption in captions}
    best = max(cider(train, dict.fromkeys(train, caption)) for caption in every)
    best_caption = constant_caption(train, candidates=len(every))
    assert cider(train, dict.fromkeys(train, best_caption)) == pytest.approx(best)
    assert tuple(best_caption) in every


def test_the_caption_depends_on_the_seed_but_not_on_the_order_of_images():
    train = make_train(40)
    backwards = dict(reversed(train.items()))
    assert constant_caption(train, candidates=5, seed=7) == constant_caption(
        backwards, candidates=5, seed=7
    )


def test_empty_captions_are_refused():
    with pytest.raises(ScoreError, match="no training caption has a word"):
        constant_caption({1: [[]]})
