"""The self-critical gradient against the exact one, by enumeration of all captions."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.config.decoding import SamplingConfig
from capdist.decoding.sampling import sample_captions
from capdist.losses.self_critical import leave_one_out_baseline, policy_log_probs, self_critical
from capdist.models.base import CaptionModel
from capdist.vocab import BOS, EOS, PAD
from tests.support.decoding import INNER, V, batch_of, make
from tests.support.models import B

WORDS = 3
#: Models whose captions share a cache, have a carried state, one that grows, or are read at once.
LEARNERS = ("glied", "ss_updown", "cavp", "nic")


def with_captions(batch: Batch, tokens: Tensor) -> Batch:
    """The images with (B, S, L) other captions."""
    start = torch.full((*tokens.shape[:2], 1), BOS)
    return replace(batch, tokens=torch.cat([start, tokens], -1))


def all_captions() -> Tensor:
    """(1, S, WORDS) all captions that can be drawn, without the certain EOS after WORDS words."""
    ended = [[*words, EOS] for n in range(WORDS) for words in product(INNER, repeat=n)]
    longest = [list(words) for words in product(INNER, repeat=WORDS)]
    rows = [row + [PAD] * (WORDS - len(row)) for row in ended + longest]
    return torch.tensor(rows)[None]


def reward(tokens: Tensor) -> Tensor:
    """Some number for each caption (..., L), fp64."""
    place = torch.arange(1, tokens.shape[-1] + 1)
    return torch.sin((tokens * place**2).sum(-1).double()) + 2


def gradient(model: CaptionModel[Tensor], loss: Tensor) -> Tensor:
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    parts = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in parts])


def loss_of(model: CaptionModel[Tensor], batch: Batch, advantage: Tensor) -> Tensor:
    decoded = model.decode_words(model.encode(batch), batch.words)
    return self_critical(model, decoded, batch, advantage)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_loss_is_that_of_the_log_probabilities(name: str) -> None:
    model = make(name)
    batch = with_captions(batch_of(V), all_captions().expand(B, -1, -1))
    advantage = torch.randn(batch.tokens.shape[:2], generator=torch.Generator().manual_seed(1))
    expected = -(advantage * policy_log_probs(model, batch).sum(-1)).sum()
    found = loss_of(model, batch, advantage)
    torch.testing.assert_close(found, expected)
    found, expected = gradient(model, found), gradient(model, expected)
    assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("name", LEARNERS)
def test_the_policy_is_a_distribution(name: str) -> None:
    captions = all_captions().expand(B, -1, -1)
    with torch.inference_mode():
        log_probs = policy_log_probs(make(name), with_captions(batch_of(V), captions))
    assert not log_probs[captions == PAD].any()
    torch.testing.assert_close(log_probs.sum(-1).exp().sum(-1), torch.ones(B))


@pytest.mark.parametrize("leave_one_out", [False, True], ids=["constant", "leave_one_out"])
@pytest.mark.parametrize("name", LEARNERS)
def test_equals_the_exact_policy_gradient(name: str, leave_one_out: bool) -> None:
    model, batch = make(name), batch_of(V)
    captions = all_captions().expand(B, -1, -1)
    chances = policy_log_probs(model, with_captions(batch, captions)).sum(-1).exp()
    exact = gradient(model, -(chances * reward(captions)).sum())

    # A few directions, so that each has its own standard error.
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(len(exact), 12, generator=generator) / len(exact) ** 0.5
    sampling, estimates = SamplingConfig(samples=60, max_words=WORDS), []
    for seed in range(30):
        drawn = sample_captions(model, model.encode(batch), batch, sampling, seed)
        drawn = drawn[..., :WORDS].clone()
        earned = reward(drawn)
        # Any baseline is correct that does not depend on the sample.
        base = leave_one_out_baseline(earned) if leave_one_out else torch.full((B, 1), 2.3)
        loss = loss_of(model, with_captions(batch, drawn), (earned - base)) / 60
        estimates.append(gradient(model, loss) @ directions)
    found = torch.stack(estimates)
    error = found.std(0) / len(found) ** 0.5
    z = (found.mean(0) - exact @ directions) / error
    assert z.abs().max() < 4
    # The test could fail: the gradient is many standard errors from zero.
    assert ((exact @ directions) / error).abs().max() > 10


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    expected = torch.tensor([[4.0, 3.5, 1.5], [0.5, 0.5, 0.5]], dtype=torch.float64)
    assert torch.equal(leave_one_out_baseline(rewards), expected)


def test_equal_rewards_give_no_gradient() -> None:
    model, batch = make("lstm"), batch_of(V)
    captions = all_captions().expand(B, -1, -1)[:, :6]
    earned = torch.full((B, 6), 0.7, dtype=torch.float64)
    advantage = earned - leave_one_out_baseline(earned)
    loss = loss_of(model, with_captions(batch, captions), advantage)
    assert gradient(model, loss).abs().max() < 1e-6
