"""Sampled captions that end as COCO's do; those of a random model would not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.train_corpus import caption_lengths
from capdist.batch import Batch
from capdist.config.decoding import SamplingConfig
from capdist.models.base import CaptionModel, State
from capdist.vocab import BOS, EOS, PAD, UNK

#: As `sample_captions`.
Sample = Callable[[CaptionModel[Any], Any, Batch, SamplingConfig, int], Tensor]


def with_lengths(sample: Sample) -> Sample:
    """Samples of the same number of words whichever ``sample`` draws them."""

    def sample_with_lengths(
        model: CaptionModel[Any], memory: Any, batch: Batch, sampling: SamplingConfig, seed: int
    ) -> Tensor:
        rng = np.random.default_rng(seed % 2**32)
        lengths = torch.from_numpy(caption_lengths(rng, (len(batch.image_ids), sampling.samples)))
        longest = sampling.model_copy(update={"max_words": int(lengths.max())})
        ending = Ending(model, lengths.flatten().to(batch.regions.device))
        return sample(cast(CaptionModel[Any], ending), memory, batch, longest, seed)

    return sample_with_lengths


class Ending:
    """A model that ends each of the B · K captions after a given number of words (B · K,)."""

    def __init__(self, model: CaptionModel[Any], lengths: Tensor) -> None:
        self.model, self.lengths, self.written = model, lengths, 0
        self.start = model.start

    def step(self, state: State[Any], token: Tensor) -> tuple[Tensor, State[Any]]:
        logits, state = self.model.step(state, token)
        return self._end(logits.flatten(0, 1), self.lengths).view_as(logits), state

    def step_rows(
        self, state: State[Any], token: Tensor, rows: Tensor
    ) -> tuple[Tensor, State[Any]]:
        logits, state = self.model.step_rows(state, token, rows)
        return self._end(logits, self.lengths[rows]), state

    def _end(self, logits: Tensor, lengths: Tensor) -> Tensor:
        logits[:, EOS] = torch.where(lengths == self.written, 1e4, -1e4)
        self.written += 1
        return logits


@torch.inference_mode()
def plain_samples(
    model: CaptionModel[Any], memory: Any, batch: Batch, sampling: SamplingConfig, seed: int
) -> Tensor:
    """As `sample_captions`, by torch's draws, and with the logits of captions that have ended."""
    torch.manual_seed(seed % 2**32)
    device = batch.regions.device
    state = model.start(memory, sampling.samples, sampling.max_words)
    token = torch.full((len(batch.image_ids), sampling.samples), BOS, device=device)
    tokens = torch.full((*token.shape, sampling.max_words + 1), PAD, device=device)
    unfinished = torch.ones_like(token, dtype=torch.bool)
    for position in range(sampling.max_words):
        logits, state = model.step(state, token)
        logits[..., [PAD, BOS, UNK]] = -torch.inf
        token = logits.softmax(-1).flatten(0, 1).multinomial(1).view_as(token)
        tokens[..., position] = token.masked_fill_(~unfinished, PAD)
        unfinished &= token != EOS
        if not unfinished.any():
            break
    tokens[..., sampling.max_words].masked_fill_(unfinished, EOS)
    return tokens
