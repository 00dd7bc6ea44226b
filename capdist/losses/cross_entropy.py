"""Cross entropy with teacher forcing, label smoothing and scheduled sampling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.base import CaptionModel
from capdist.models.layers import full_precision
from capdist.words import Words


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
        words = scheduled_inputs(model, memory, batch, words, sampled)
    decoded, own = model.supervised(memory, batch, words)
    loss = model.word_loss(decoded, words.pick(batch.targets), smoothing=label_smoothing)
    if words.count:
        return loss, own
    return 0.0 * loss, None if own is None else 0.0 * own


@torch.no_grad()
def scheduled_inputs(
    model: CaptionModel[Any], memory: Any, batch: Batch, words: Words, sampled: float
) -> Words:
    """The words, each after BOS with probability ``sampled`` drawn from the model instead.

    Logits are computed only where a word is drawn. Those places are chosen on the CPU, so that the
    host waits for no device.
    """
    drawn = batch.inputs.clone(memory_format=torch.contiguous_format)
    rows = drawn.view(-1, drawn.shape[2])
    state = model.start(memory, *drawn.shape[1:])
    for position, alive in enumerate(words.alive[1:]):
        decoded, state = model.decode_word(state, drawn[..., position])
        places = (torch.rand(alive) < sampled).nonzero()[:, 0]
        if len(places):
            captions = words.captions[places.to(drawn.device, non_blocking=True)]
            logits = model.output(decoded.flatten(0, 1)[captions])
            chosen = full_precision(logits).softmax(-1).multinomial(1)[:, 0]
            rows[captions, position + 1] = chosen
    return words.reading(drawn)
