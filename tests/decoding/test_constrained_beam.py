"""Constrained beam search against exhaustive enumeration, and constraints that are refused."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch

from capdist.config.base import ConfigError
from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import beam_search
from capdist.decoding.constrained_beam import WordSets, fewest_words
from capdist.decoding.constraints import Constraints
from capdist.vocab import PAD, Vocabulary
from tests.support.decoding import (
    DECODERS,
    INNER,
    WORDS,
    V,
    batch_of,
    captions_of,
    enumerate_all,
    make,
    search,
)
from tests.support.models import B

SETS: list[WordSets] = [
    [(4,)],
    [(5, 7)],
    [(4,), (6,)],
    [(4, 5), (5, 6)],  # one word may satisfy both
    [(4,), (5,), (7,)],
]


def unpruned(sets: WordSets) -> int:
    """A beam that holds all hypotheses of the fullest state before the last step."""

    def state(words: tuple[int, ...]) -> tuple[bool, ...]:
        return tuple(bool({*words} & {*group}) for group in sets)

    alive = Counter(state(words) for words in product(INNER, repeat=WORDS))
    ended = sum(all(state(words)) for n in range(WORDS) for words in product(INNER, repeat=n))
    return max(10, max(alive.values()) + ended)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("sets", SETS, ids=str)
def test_finds_the_best_captions_that_satisfy_all_sets(name: str, sets: WordSets) -> None:
    model, batch = make(name), batch_of(V)
    truth = enumerate_all(model, batch)
    found = search(model, batch, unpruned(sets), WORDS, sets=sets)
    for image in range(B):
        satisfying = [
            (score, caption)
            for score, caption in truth[image]
            if all(set(words) & set(caption) for words in sets)
        ]
        assert satisfying
        for k, (score, caption) in enumerate(satisfying[:10]):
            assert [t for t in found.tokens[image, k].tolist() if t != PAD] == caption
            assert found.scores[image, k].item() == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("beam", [1, 2, 3])
def test_narrow_beams_satisfy_all_sets(beam: int) -> None:
    model, batch = make("glied"), batch_of(V)
    free = captions_of(search(model, batch, beam, 6))
    assert not all({4, 7} < set(words) for words in free)
    for options in ({}, {"no_repeat_ngram": 2}, {"min_words": 4, "length": {"name": "average"}}):
        found = search(model, batch, beam, 6, sets=[(4,), (7,)], **options)
        assert (found.scores > -torch.inf).all()
        assert all({4, 7} < set(words) for words in captions_of(found))


def test_every_image_has_its_own_sets() -> None:
    model, batch = make("lstm"), batch_of(V)
    decoding = DecodingConfig(beam=3, max_words=5)
    own: dict[int, WordSets] = {1: [(7,), (5,)], 2: [(4,)]}
    together = beam_search(model, batch, decoding, Constraints(forced=[(6,)], by_image=own))
    alone = [[(6,)], [(6,), (7,), (5,)], [(6,), (4,)]]
    for image, sets in enumerate(alone):
        expected = search(model, batch, 3, 5, sets=sets)
        assert torch.equal(together.tokens[image], expected.tokens[image])
        torch.testing.assert_close(together.scores[image], expected.scores[image])
    assert Constraints(forced=[(6,)], by_image=own).sets(0) == ((6,),)


def test_forced_words_do_not_raise_scores() -> None:
    model, batch = make("glied"), batch_of(V)
    found = search(model, batch, 3, 6, sets=[(4,), (7,)])
    free = search(model, batch, 3, 6)
    assert (found.scores[:, 0] <= free.scores[:, 0] + 1e-5).all()


@pytest.mark.parametrize(
    ("sets", "count"),
    [([], 0), ([(4,)], 1), ([(4, 5), (5, 6)], 1), ([(4, 5), (6,), (5, 7)], 2)],
)
def test_fewest_words_that_meet_all_sets(sets: WordSets, count: int) -> None:
    assert fewest_words(sets) == count


VOCAB = Vocabulary(["a", "dog", "ball", "runs", "the", "red", "big"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 12}, "decoding.beam: 12 hypotheses, but the vocabulary has 11 words"),
        ({"forbidden": ["cat"]}, "decoding.forbidden: 'cat' is not in the vocabulary"),
        ({"forced": [["dog", "cat"]]}, "decoding.forced: 'cat' is not in the vocabulary"),
        ({"forced": [["<eos>"]]}, "decoding.forced: '<eos>' is not in the vocabulary"),
        ({"forced": [["dog"]], "forbidden": ["dog"]}, "decoding.forced: none of dog may be writ"),
        ({"forced": [[]]}, "decoding.forced: none of an empty set may be written"),
        (
            {"forced": [["dog"], ["ball"], ["runs"]], "max_words": 2},
            "decoding.forced: a caption needs 3 words to .*, but decoding.max_words is 2",
        ),
        ({"forced": [["dog"]] * 6}, "decoding.forced: 6 sets of words, expected at most 5"),
        ({"forced": [["dog"]], "groups": 3}, "words can't be forced in diverse beam search"),
    ],
)
def test_impossible_constraints_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Constraints.of(DecodingConfig(**options), VOCAB)


def test_words_may_be_given_in_any_form_of_unicode() -> None:
    vocab = Vocabulary(["a", "café"])
    decoding = DecodingConfig(forbidden=("cafe\u0301",))
    assert Constraints.of(decoding, vocab).forbidden == (5,)


def test_impossible_constraints_of_an_image_name_it() -> None:
    with pytest.raises(ConfigError, match="forced words of image 7: 'cat' is not in"):
        Constraints.of(DecodingConfig(), VOCAB, {7: [["cat"]]})
    short = DecodingConfig(max_words=2, forced=(("dog",), ("ball",)))
    with pytest.raises(ConfigError, match="forced words of image 7: a caption needs 3 words"):
        Constraints.of(short, VOCAB, {7: [["red"]]})
