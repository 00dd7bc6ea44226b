"""Beam search against exhaustive enumeration under real models."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from capdist.config.decoding import LengthConfig
from capdist.decoding.beam import DecodingError, length_weights
from capdist.vocab import BOS, EOS, PAD, UNK
from tests.support.decoding import (
    DECODERS,
    UNPRUNED,
    WORDS,
    V,
    batch_of,
    captions_of,
    enumerate_all,
    make,
    search,
)
from tests.support.models import B, images_of


@pytest.mark.parametrize("name", DECODERS)
def test_a_wide_beam_finds_the_best_captions(name: str) -> None:
    model, batch = make(name), batch_of(V)
    truth = enumerate_all(model, batch)
    found = search(model, batch, UNPRUNED, WORDS)
    for image in range(B):
        for k in range(10):
            score, caption = truth[image][k]
            tokens = [t for t in found.tokens[image, k].tolist() if t != PAD]
            assert tokens == caption
            assert found.scores[image, k].item() == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_a_beam_of_one_is_greedy(name: str) -> None:
    model, batch = make(name), batch_of(V)
    found = search(model, batch, 1, 6).tokens[:, 0]
    prefix = torch.full((B, 1, 1), BOS)
    with torch.inference_mode():
        memory = model.encode(batch)
        for position in range(7):
            logits = model(memory, prefix)[:, 0, -1]
            logits[:, [PAD, BOS, UNK]] = -torch.inf
            ended = (prefix == EOS).any(-1)[:, 0]
            word = logits.argmax(-1) if position < 6 else torch.full((B,), EOS)
            word = word.masked_fill(ended, PAD)
            assert torch.equal(found[:, position], word)
            prefix = torch.cat([prefix, word[:, None, None]], -1)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("beam", [1, 3, 5])
def test_captions_do_not_depend_on_the_batch(name: str, beam: int) -> None:
    model, batch = make(name), batch_of(V)
    together = search(model, batch, beam, 5)
    for i in range(B):
        alone = search(model, images_of(batch, slice(i, i + 1)), beam, 5)
        assert torch.equal(alone.tokens[0], together.tokens[i])
        torch.testing.assert_close(alone.scores[0], together.scores[i])


@pytest.mark.parametrize("name", DECODERS)
def test_scores_are_sums_of_log_probabilities(name: str) -> None:
    model, batch = make(name), batch_of(V)
    found = search(model, batch, 3, 5)
    inputs = torch.cat([torch.full((B, 3, 1), BOS), found.tokens[..., :-1]], -1)
    with torch.inference_mode():
        log_probs = model(model.encode(batch), inputs).log_softmax(-1)
    chosen = log_probs.gather(-1, found.tokens[..., None])[..., 0]
    scores = chosen.masked_fill(found.tokens == PAD, 0).sum(-1)
    torch.testing.assert_close(scores, found.scores, rtol=1e-4, atol=1e-4)
    assert (found.scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("length", [{"name": "average"}, {"name": "gnmt", "alpha": 0.9}])
def test_length_normalisation_finds_the_best_captions(name: str, length: dict[str, Any]) -> None:
    model, batch = make(name), batch_of(V)
    truth = enumerate_all(model, batch)
    found = search(model, batch, UNPRUNED, WORDS, length=length)
    weights = length_weights(LengthConfig(**length), WORDS + 1, torch.device("cpu")).tolist()
    for image in range(B):
        ranked = sorted(truth[image], key=lambda pair: -pair[0] * weights[len(pair[1])])
        for k in range(10):
            tokens = [t for t in found.tokens[image, k].tolist() if t != PAD]
            assert tokens == ranked[k][1]
            assert found.scores[image, k].item() == pytest.approx(ranked[k][0], abs=1e-4)


def test_length_weights_by_hand() -> None:
    def weights(**config: Any) -> list[float]:
        found: list[float] = length_weights(LengthConfig(**config), 7, torch.device("cpu")).tolist()
        return found

    assert weights(name="none") == [1.0] * 8
    assert weights(name="average")[1:] == pytest.approx([1 / length for length in range(1, 8)])
    gnmt = weights(name="gnmt", alpha=2.0)  # (6 / (5 + length)) ** 2
    assert [gnmt[1], gnmt[4], gnmt[7]] == pytest.approx([1.0, 4 / 9, 1 / 4])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"min_words": 2}, lambda words: len(words) >= 2),
        ({"no_immediate_repeat": True}, lambda words: all(a != b for a, b in pairwise(words))),
        ({"no_repeat_ngram": 1}, lambda words: len(set(words)) == len(words)),
        ({"forbidden_ids": [5, 6]}, lambda words: not {5, 6} & set(words)),
        (
            {"min_words": 3, "no_repeat_ngram": 1, "forbidden_ids": [7]},
            lambda words: sorted(words) == [4, 5, 6],
        ),
    ],
)
def test_restrictions_leave_the_best_allowed_captions(
    options: dict[str, Any], kept: Callable[[list[int]], bool]
) -> None:
    model, batch = make("glied"), batch_of(V)
    truth = enumerate_all(model, batch)
    found = search(model, batch, UNPRUNED, WORDS, **options)
    for image in range(B):
        allowed = [
            (score, caption)
            for score, caption in truth[image]
            if kept([t for t in caption if t != EOS])
        ]
        for k in range(min(5, len(allowed))):
            tokens = [t for t in found.tokens[image, k].tolist() if t != PAD]
            assert tokens == allowed[k][1]


def test_no_ngram_is_repeated() -> None:
    model, batch = make("lstm"), batch_of(V)
    found = search(model, batch, 3, 12, no_repeat_ngram=2, min_words=10)
    free = search(model, batch, 3, 12, min_words=10)
    repeated = [
        [len(set(pairwise(words))) < len(words) - 1 for words in captions_of(hypotheses)]
        for hypotheses in (found, free)
    ]
    assert not any(repeated[0])
    assert any(repeated[1])


def test_hypotheses_without_a_caption_are_dead() -> None:
    model, batch = make("glied"), batch_of(V)
    found = search(model, batch, 9, 1, forbidden_ids=[5, 6, 7])
    # Only EOS and 4 EOS can be written.
    alive = found.scores > -torch.inf
    assert alive.sum(1).tolist() == [2] * B
    assert not alive[:, 2:].any()


@pytest.mark.parametrize(
    "options", [{}, {"groups": 3}, {"sets": [(4,)]}, {"length": {"name": "average"}}], ids=str
)
def test_captions_have_at_most_max_words_and_end(options: dict[str, Any]) -> None:
    model, batch = make("lstm"), batch_of(V)
    model.get_parameter("output.bias").data[EOS] = -30  # so unlikely that none ends by itself
    found = search(model, batch, 3, 5, **options)
    assert all(len(words) == 6 and words[-1] == EOS for words in captions_of(found))
    assert (found.scores.diff(dim=1) <= 0).all() or "length" in options


def test_a_nan_after_the_last_word_is_refused() -> None:
    model, batch = make("lstm"), batch_of(V)
    step = model.step

    def nan_at_the_end(state: Any, token: Any) -> Any:
        logits, after = step(state, token)
        return (logits * torch.nan if state.position == 2 else logits), after

    model.step = nan_at_the_end  # type: ignore[method-assign]
    with pytest.raises(DecodingError, match="the logits of word 3 are NaN or infinite"):
        search(model, batch, 3, 2, min_words=2)


def test_nan_logits_are_refused() -> None:
    model, batch = make("glied"), batch_of(V)
    batch.regions[1, 0] = torch.nan
    with pytest.raises(DecodingError, match="sample b: the logits of word 1 are NaN or infinite"):
        search(model, batch, 3, 5)
