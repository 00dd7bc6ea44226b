"""Sampling follows the model's distribution, and no draw depends on its neighbours."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capdist.batch import Batch
from capdist.config.decoding import SamplingConfig
from capdist.decoding.sampling import draw, invert, restrict, sample, uniform, unit
from capdist.models.base import registered
from capdist.vocab import BOS, EOS, PAD, UNK
from tests.support.decoding import V, batch_of, make
from tests.support.models import B


def config(**options: Any) -> SamplingConfig:
    return SamplingConfig(**{"samples": 4, "max_words": 5, **options})


def test_uniform_numbers_are_uniform_and_independent() -> None:
    u = uniform(3, torch.arange(500)[:, None], torch.arange(400), 7)
    assert u.min() > 0
    assert u.max() < 1
    counts = torch.histc(u, 50, 0, 1)
    # Chi-squared with 49 degrees of freedom: beyond 100 once in 20,000 times.
    assert float(((counts - 4000) ** 2 / 4000).sum()) < 100
    for other in (uniform(4, torch.arange(500)[:, None], torch.arange(400), 7), u.roll(1, 0)):
        assert abs(float(torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1])) < 0.01


def test_the_ends_are_left_out() -> None:
    ends = unit(torch.tensor([0, 2**23 - 1]))
    assert ends[0] > 0
    assert ends[1] < 1
    assert (-(-ends.log()).log()).isfinite().all()


def test_what_has_no_share_is_never_drawn() -> None:
    cumulative = torch.tensor([0.0, 0.4, 0.9, 0.9])
    drawn = invert(cumulative.repeat(4, 1), torch.tensor([1e-8, 0.4, 0.5, 1.0]))
    assert drawn.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("gumbel", [False, True])
def test_draws_follow_the_distribution(gumbel: bool) -> None:
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0, -1.0])
    key = [5, torch.arange(200)[:, None], torch.arange(500), 2]
    drawn = draw(logits.expand(200, 500, 5), key, gumbel=gumbel)
    share = torch.bincount(drawn.flatten(), minlength=5) / drawn.numel()
    torch.testing.assert_close(share, logits.softmax(-1), rtol=0, atol=0.006)
    assert share[2] == 0


@pytest.mark.parametrize("name", registered())
@pytest.mark.parametrize("gumbel", [False, True])
def test_an_images_captions_do_not_depend_on_its_batch(name: str, gumbel: bool) -> None:
    model, batch = make(name), batch_of(V)
    together = sample(model, batch, config(gumbel=gumbel), 11)
    for i in range(B):
        parts = {n: v[i : i + 1] for n, v in vars(batch).items() if n != "keys"}
        alone = sample(model, Batch(batch.keys[i : i + 1], **parts), config(gumbel=gumbel), 11)
        assert torch.equal(alone.tokens[0], together.tokens[i])
    fewer = sample(model, batch, config(gumbel=gumbel, samples=2), 11)
    assert torch.equal(fewer.tokens, together.tokens[:, :2])
    assert not torch.equal(sample(model, batch, config(gumbel=gumbel), 12).tokens, together.tokens)


@pytest.mark.parametrize("name", registered())
def test_scores_are_those_of_the_model(name: str) -> None:
    model, batch = make(name), batch_of(V)
    found = sample(model, batch, config(temperature=0.7, top_k=3), 1)
    inputs = torch.cat([torch.full((B, 4, 1), BOS), found.tokens[..., :-1]], -1)
    with torch.inference_mode():
        log_probs = model(model.encode(batch), inputs).log_softmax(-1)
    chosen = log_probs.gather(-1, found.tokens[..., None])[..., 0]
    scores = chosen.masked_fill(found.tokens == PAD, 0).sum(-1)
    torch.testing.assert_close(scores, found.scores, rtol=1e-4, atol=1e-4)
    ended = (found.tokens == EOS).cumsum(-1)
    assert ((found.tokens == PAD) == (ended - (found.tokens == EOS).long() > 0)).all()
    assert not torch.isin(found.tokens, torch.tensor([BOS, UNK])).any()


def test_a_cold_model_is_greedy() -> None:
    model, batch = make("glied"), batch_of(V)
    cold = sample(model, batch, config(temperature=1e-4), 1).tokens
    assert torch.equal(sample(model, batch, config(top_k=1), 2).tokens, cold)
    assert torch.equal(sample(model, batch, config(top_p=1e-6), 3).tokens, cold)
    assert (cold == cold[:, :1]).all()


def test_top_k_and_top_p_by_hand() -> None:
    probs = torch.tensor([[0.0, 0.0, 0.1, 0.0, 0.4, 0.3, 0.15, 0.05]])

    def kept(**options: Any) -> list[int]:
        logits = restrict(probs.log(), config(**options))[0]
        return [int(t) for t in (logits > -torch.inf).nonzero()[:, 0]]

    assert kept() == [2, 4, 5, 6, 7]
    assert kept(top_k=2) == [4, 5]
    assert kept(top_p=0.4) == [4]
    assert kept(top_p=0.41) == [4, 5]
    assert kept(top_p=0.86) == [2, 4, 5, 6]
    assert kept(top_k=3, top_p=0.45) == [4]
