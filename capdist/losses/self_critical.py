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


def policy_log_probs(model: CaptionModel[Any], batch: Batch) -> Tensor:
    """Log π (B, S, L) of every target, 0 after a caption's end.

    π is the distribution that `sample_captions` draws from: the model without PAD, BOS and UNK. The
    EOS after the most words that it writes is not drawn: leave it out of the batch.
    """
    logits = model(model.encode(batch), batch.inputs).float()
    logits = logits.index_fill(-1, torch.tensor([PAD, BOS, UNK], device=logits.device), -torch.inf)
    targets = batch.targets
    # PAD has no probability: read any word's in its place, and mask the result.
    words = targets.masked_fill(targets == PAD, UNK + 1)
    chosen = logits.log_softmax(-1).gather(-1, words[..., None])[..., 0]
    return chosen.masked_fill(targets == PAD, 0.0)


def self_critical(log_probs: Tensor, advantage: Tensor) -> Tensor:
    """−Σ (r − b) Σ_t log π(w_t), a scalar; of log π (B, S, L) and advantages r − b (B, S).

    A sum, not a mean, like `cross_entropy`: the trainer divides by the tokens of the whole step.
    """
    return -(advantage * log_probs.sum(-1)).sum()


def leave_one_out_baseline(rewards: Tensor) -> Tensor:
    """Baselines (B, n): the mean reward of an image's other samples, (Σ r − r_i) / (n − 1)."""
    return (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
