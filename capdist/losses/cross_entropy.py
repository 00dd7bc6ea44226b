"""Cross entropy with teacher forcing, label smoothing and scheduled sampling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.base import CaptionModel
from capdist.vocab import PAD


def cross_entropy(
    model: CaptionModel[Any], batch: Batch, *, label_smoothing: float, sampled: float
) -> Tensor:
    """The sum of `training_losses`, a scalar."""
    loss, own = training_losses(model, batch, label_smoothing=label_smoothing, sampled=sampled)
    return loss if own is None else loss + own


def training_losses(
    model: CaptionModel[Any], batch: Batch, *, label_smoothing: float, sampled: float
) -> tuple[Tensor, Tensor | None]:
    """-Σ log p(w_t | w_<t, image), and the loss of the model's own, `CaptionModel.supervised`.

    Both are scalars, summed over the words and EOS of every caption. A sum, not a mean: the mean of
    ranks' and micro-batches' means is not the global mean, so the trainer divides by the token
    count of the whole step.

    Args:
        model: a captioning model.
        batch: images with their captions.
        label_smoothing: share of the target mass spread over the vocabulary (Szegedy et al.).
        sampled: probability that an input word is drawn from the model (Bengio et al. 2015).
    """
    memory, words = model.encode(batch), batch.words
    if sampled > 0:
        words = words.reading(scheduled_inputs(model, memory, batch.inputs, sampled))
    decoded, own = model.supervised(memory, batch, words)
    loss = model.word_loss(decoded, words.pick(batch.targets), smoothing=label_smoothing)
    if words.count:
        return loss, own
    return 0.0 * loss, None if own is None else 0.0 * own


@torch.no_grad()
def scheduled_inputs(
    model: CaptionModel[Any], memory: Any, inputs: Tensor, sampled: float
) -> Tensor:
    """(B, S, L) inputs; each word after BOS is, with probability ``sampled``, drawn from the model.

    Padding stays padding, so that words drawn after a caption's end carry no loss.
    """
    state = model.start(memory, inputs.shape[1], inputs.shape[2])
    drawn = inputs.clone()
    for position in range(inputs.shape[2] - 1):
        logits, state = model.step(state, drawn[..., position])
        words = torch.distributions.Categorical(logits=logits.float()).sample()
        following = inputs[..., position + 1]
        replaced = (torch.rand(following.shape, device=inputs.device) < sampled) & (
            following != PAD
        )
        drawn[..., position + 1] = torch.where(replaced, words, following)
    return drawn
