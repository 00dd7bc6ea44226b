"""Beam search against exhaustive enumeration under real models."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from capdist.batch import Batch
from capdist.decoding.beam import beam_search
from capdist.models.base import CaptionModel, Dims, build, registered
from capdist.vocab import BOS, EOS, PAD, UNK
from tests.contract.test_models import B, make_batch

V, WORDS = 8, 3


def make(name: str) -> CaptionModel[Any]:
    torch.manual_seed(4)
    model = build({"name": name}, Dims(7, V)).eval()
    # Spread the probabilities, so that captions differ by more than rounding.
    model.get_parameter("output.weight").data.mul_(4)
    return model


def batch_of(v: int) -> Batch:
    batch = make_batch()
    batch.tokens.clamp_(max=v - 1)
    batch.concepts.clamp_(max=v - 1)
    return batch


def enumerate_all(model: CaptionModel[Any], batch: Batch) -> list[list[tuple[float, list[int]]]]:
    """Every caption of at most WORDS words (or cut there) by score, for every image."""
    inner = [t for t in range(V) if t not in (PAD, BOS, EOS, UNK)]
    captions = [[*words, EOS] for n in range(WORDS + 1) for words in product(inner, repeat=n)]
    captions += [list(words) for words in product(inner, repeat=WORDS + 1)]
    tokens = torch.full((1, len(captions), WORDS + 1), PAD)
    for i, caption in enumerate(captions):
        tokens[0, i, : len(caption)] = torch.tensor(caption)
    inputs = torch.cat([torch.full((1, len(captions), 1), BOS), tokens[..., :-1]], -1)
    with torch.inference_mode():
        log_probs = model(model.encode(batch), inputs.expand(B, -1, -1)).log_softmax(-1)
    chosen = log_probs.gather(-1, tokens.expand(B, -1, -1)[..., None])[..., 0]
    scores = chosen.masked_fill(tokens == PAD, 0).sum(-1)
    return [
        sorted(zip(row, captions, strict=True), key=lambda pair: -pair[0])
        for row in scores.tolist()
    ]


@pytest.mark.parametrize("name", registered())
def test_a_wide_beam_finds_the_true_best(name: str) -> None:
    model, batch = make(name), batch_of(V)
    truth = enumerate_all(model, batch)
    # Wide enough to hold every hypothesis of every length, so that nothing is ever pruned.
    found = beam_search(model, batch, beam=4**WORDS * 2, max_words=WORDS)
    for image in range(B):
        for k in range(10):
            score, caption = truth[image][k]
            tokens = [t for t in found.tokens[image, k].tolist() if t != PAD]
            assert tokens == caption
            assert found.scores[image, k].item() == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("name", registered())
def test_one_beam_is_greedy(name: str) -> None:
    model, batch = make(name), batch_of(V)
    found = beam_search(model, batch, beam=1, max_words=6).tokens[:, 0]
    prefix = torch.full((B, 1, 1), BOS)
    with torch.inference_mode():
        memory = model.encode(batch)
        for position in range(7):
            logits = model(memory, prefix)[:, 0, -1]
            logits[:, [PAD, BOS, UNK]] = -torch.inf
            ended = (prefix == EOS).any(-1)[:, 0]
            word = logits.argmax(-1).masked_fill(ended, PAD)
            assert torch.equal(found[:, position], word)
            prefix = torch.cat([prefix, word[:, None, None]], -1)


@pytest.mark.parametrize("name", registered())
@pytest.mark.parametrize("beam", [1, 3, 5])
def test_a_batch_equals_its_images(name: str, beam: int) -> None:
    model, batch = make(name), batch_of(V)
    together = beam_search(model, batch, beam=beam, max_words=5)
    for i in range(B):
        parts = {n: v[i : i + 1] for n, v in vars(batch).items() if n != "keys"}
        alone = beam_search(model, Batch(batch.keys[i : i + 1], **parts), beam=beam, max_words=5)
        assert torch.equal(alone.tokens[0], together.tokens[i])
        torch.testing.assert_close(alone.scores[0], together.scores[i])


@pytest.mark.parametrize("name", registered())
def test_scores_are_those_of_the_tokens(name: str) -> None:
    model, batch = make(name), batch_of(V)
    found = beam_search(model, batch, beam=3, max_words=5)
    inputs = torch.cat([torch.full((B, 3, 1), BOS), found.tokens[..., :-1]], -1)
    with torch.inference_mode():
        log_probs = model(model.encode(batch), inputs).log_softmax(-1)
    chosen = log_probs.gather(-1, found.tokens[..., None])[..., 0]
    scores = chosen.masked_fill(found.tokens == PAD, 0).sum(-1)
    torch.testing.assert_close(scores, found.scores, rtol=1e-4, atol=1e-4)
    assert (found.scores.diff(dim=1) <= 0).all()
