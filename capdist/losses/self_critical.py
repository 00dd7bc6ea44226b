"""Self-critical sequence training: the policy gradient of a caption's reward.

Rennie et al., CVPR 2017, Eq. 7: ∇L = −E[(r(w) − b) ∇ log π(w)] for captions w drawn from the policy
π. The baseline b may be anything that does not depend on w itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.base import CaptionModel
from capdist.vocab import BOS, PAD, UNK

#: What no caption contains.
NEVER = (PAD, BOS, UNK)


def policy_log_probs(model: CaptionModel[Any], batch: Batch) -> Tensor:
    """Log π (B, S, L) of every target, 0 after a caption's end.

    π is the distribution that `sample_captions` draws from: the model without PAD, BOS and UNK. The
    EOS after the most words that it writes is not drawn: leave it out of the batch.
    """
    words = batch.words
    logits = model.word_logits(model.encode(batch), words).float()
    logits = logits.index_fill(-1, torch.tensor(NEVER, device=logits.device), -torch.inf)
    chosen = logits.log_softmax(-1).gather(-1, _targets(batch)[:, None])[:, 0]
    return words.pad(chosen if words.count else 0.0 * chosen)


def self_critical(
    model: CaptionModel[Any], decoded: Tensor, batch: Batch, advantage: Tensor
) -> Tensor:
    """−Σ (r − b) Σ_t log π(w_t), a scalar; of ``model.decode_words`` and r − b (B, S).

    A sum, not a mean, like `cross_entropy`: the trainer divides by the tokens of the whole step.
    """
    words = batch.words
    weights = words.pick(advantage[..., None].expand(words.shape)).float()
    return model.word_loss(decoded, _targets(batch), weights, never=NEVER)


def _targets(batch: Batch) -> Tensor:
    """The targets (T,) of words; PAD, in a batch without any, has no probability: another word."""
    targets = batch.words.pick(batch.targets)
    return targets.masked_fill(targets == PAD, UNK + 1)


def leave_one_out_baseline(rewards: Tensor) -> Tensor:
    """Baselines (B, n): the mean reward of an image's other samples, (Σ r − r_i) / (n − 1)."""
    return (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
