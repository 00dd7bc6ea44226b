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
    """-Σ log p(w_t | w_<t, image), summed over the words and EOS of every caption; a scalar.

    The loss of the model's own, `CaptionModel.supervised`, is added.

    A sum, not a mean: the mean of ranks' and micro-batches' means is not the global mean, so the
    trainer divides by the token count of the whole step.

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
    loss = loss if own is None else loss + own
    return loss if words.count else 0.0 * loss


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
