"""REINFORCE for models that draw the region they look at: Xu et al., ICML 2015, Eq. 10 to 12.

The loss of a caption y of an image a, whose regions s̃ are drawn from the attention α, is

    -log p(y | s̃, a) - λ_r (log p(y | s̃, a) - b) log p(s̃ | a) - λ_e H[s̃]

with the bracket as a constant. b is a moving average of log p(y | s̃, a) over the steps,
b ← 0.9 b + 0.1 log p, and H the entropy of α, summed over the caption's words. For half of the
images the expectation over α is read instead of a draw, which lowers the variance; their loss has
no middle term.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from capdist.batch import Batch
from capdist.models.soft_attention import HardAttention
from capdist.vocab import PAD


@dataclass(frozen=True)
class StochasticLoss:
    """A scalar summed over captions, and log p(y | s̃, a) (B, S), 0 for padding."""

    loss: Tensor
    log_likelihood: Tensor


def stochastic_loss(
    model: HardAttention,
    batch: Batch,
    baseline: Tensor,
    *,
    weight: float = 1.0,
    entropy: float = 0.002,
    expectation: float = 0.5,
) -> StochasticLoss:
    """The loss above.

    Args:
        model: in training mode, so that it draws.
        batch: images with their captions.
        baseline: b, a scalar; nan before the first step, which then has no middle term.
        weight: λ_r.
        entropy: λ_e.
        expectation: probability that an image is read by expectation.
    """
    expected = torch.rand(len(batch.tokens), device=batch.tokens.device) < expectation
    words = batch.words
    targets = words.pick(batch.targets)
    drawn = model.draw(model.encode(batch), words, expected)
    real = targets != PAD  # but for the place of a batch without words
    losses = functional.cross_entropy(
        drawn.logits.float(), targets, ignore_index=PAD, reduction="none"
    )
    log_likelihood = -words.pad(losses.detach()).sum(-1)
    advantage = (log_likelihood - baseline).nan_to_num() * ~expected[:, None]
    choices = words.pad(drawn.log_choice * real).sum(-1)
    bonus = (drawn.entropy * real).sum()
    loss = losses.sum() - weight * (advantage * choices).sum() - entropy * bonus
    return StochasticLoss(loss, log_likelihood)
