"""REINFORCE for hard attention, against the sum over all choices of regions."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.losses.stochastic_attention import stochastic_loss
from capdist.models.base import Dims
from capdist.models.soft_attention import HardAttention, HardAttentionConfig
from capdist.vocab import BOS, EOS, PAD
from capdist.words import Words
from tests.support.models import make_batch

#: One caption of two targets, which look at one of three regions each.
REGIONS, WORDS = 3, 2


class Forced(HardAttention):
    """Looks at given regions, one after the other; row n of a batch at those of ``choices[n]``."""

    choices: Tensor

    def choose(self, weights: Tensor) -> Tensor:
        self.looked += 1
        return self.choices[:, self.looked - 1, None, None]


def model(kind: type[HardAttention]) -> Any:
    torch.manual_seed(4)
    sizes = {"width": 8, "embedding": 6, "attention": 5, "dropout": 0}
    made = kind(HardAttentionConfig(name="hard_attention", **sizes), Dims(7, 23))
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    return made.train()


def batch(copies: int) -> Batch:
    """Copies of one image with one caption, padded by a position."""
    one = make_batch()
    tokens = torch.tensor([[[BOS, 7, EOS, PAD]]]).expand(copies, -1, -1)
    regions = one.regions[:1, :REGIONS].expand(copies, -1, -1)
    mask = torch.ones(copies, REGIONS, dtype=torch.bool)
    return replace(one, keys=("a",) * copies, regions=regions, region_mask=mask, tokens=tokens)


def gradient(loss: Tensor, of: nn.Module) -> Tensor:
    found = torch.autograd.grad(loss, list(of.parameters()), materialize_grads=True)
    return torch.cat([part.flatten() for part in found])


def exact(entropy: float) -> Tensor:
    """-∇ (Σ_s p(s) log p(y | s) + λ_e Σ_s p(s) H[s]), H's dependence on s as a constant."""
    m = model(Forced)
    every = torch.tensor([(*s, 0) for s in product(range(REGIONS), repeat=WORDS)])
    m.choices, m.looked = every, 0
    images = batch(len(every))
    words = Words.all(images.inputs)
    drawn = m.draw(m.encode(images), words, torch.zeros(len(every), dtype=torch.bool))
    logits, log_choice = words.pad(drawn.logits), words.pad(drawn.log_choice)
    log_p = logits.log_softmax(-1).gather(-1, images.targets[..., None])[:, 0, :WORDS, 0]
    p = log_choice[:, 0, :WORDS].sum(-1).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    bonus = words.pad(drawn.entropy)[:, 0, :WORDS].sum(-1)
    return -gradient((p * log_p.sum(-1)).sum() + entropy * (p.detach() * bonus).sum(), m)


@pytest.mark.parametrize(("baseline", "entropy"), [(0.0, 0.0), (-5.0, 0.1)])
def test_the_mean_gradient_is_that_of_the_sum_over_all_choices(
    baseline: float, entropy: float
) -> None:
    m, parts = model(HardAttention), []
    torch.manual_seed(6)
    copies = 5000
    for _ in range(8):
        found = stochastic_loss(
            m, batch(copies), torch.tensor(baseline), entropy=entropy, expectation=0
        )
        parts.append(gradient(found.loss / copies, m))
    mean, error = torch.stack(parts).mean(0), torch.stack(parts).std(0) / len(parts) ** 0.5
    expected = exact(entropy)
    assert ((mean - expected).norm() / expected.norm()) < 0.05
    # Of all elements, hardly one is further away than five standard errors.
    outside = (mean - expected).abs() > 5 * error + 1e-6
    assert outside.float().mean() < 0.02


def test_images_read_by_expectation_have_no_reward() -> None:
    m, images = model(HardAttention), batch(4)
    torch.manual_seed(1)
    rewarded = stochastic_loss(m, images, torch.tensor(-100.0), entropy=0, expectation=1)
    without = stochastic_loss(m, images, torch.tensor(float("nan")), entropy=0, expectation=1)
    assert torch.equal(rewarded.loss, without.loss)
    assert torch.equal(gradient(rewarded.loss, m), gradient(without.loss, m))
