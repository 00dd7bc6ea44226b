"""Sampled captions that do not depend on how images are batched.

A draw is a hash of (seed, image, sample, position), not a number from a generator's sequence: the
captions of an image do not change with its neighbours, the batch size or the number of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.config.decoding import SamplingConfig
from capdist.models.base import CaptionModel
from capdist.vocab import BOS, EOS, PAD, UNK


@torch.inference_mode()
def sample_captions(
    model: CaptionModel[Any], memory: Any, batch: Batch, sampling: SamplingConfig, seed: int
) -> Tensor:
    """``sampling.samples`` captions per image, drawn from the model without PAD, BOS and UNK.

    Args:
        model: in evaluation mode.
        memory: of the batch's images, as `CaptionModel.encode` returns it.
        batch: its captions are not read.
        sampling: how many captions, and how long.
        seed: of the draws.

    Returns:
        tokens (B, K, max_words + 1), in the order of drawing. A caption of ``max_words`` words ends
        there: its EOS is not drawn.
    """
    samples = sampling.samples
    images, device = batch.image_ids.to(batch.regions.device), batch.regions.device
    state = model.start(memory, samples, sampling.max_words)
    token = torch.full((len(images), samples), BOS, device=device)
    tokens = torch.full((*token.shape, sampling.max_words + 1), PAD, device=device)
    number = torch.arange(samples, device=device)
    unfinished = torch.ones_like(token, dtype=torch.bool)
    rows = torch.arange(token.numel(), device=device)
    unwritten = torch.tensor([PAD, BOS, UNK], device=device)
    for position in range(sampling.max_words):
        logits, state = model.step_rows(state, token, rows)
        probabilities = logits.float().softmax(-1).index_fill_(-1, unwritten, 0.0)
        u = uniform(torch.tensor(seed, device=device), images[:, None], number, position)
        token = torch.full_like(token, PAD)
        token.view(-1)[rows] = draw(probabilities, u.flatten()[rows])
        tokens[..., position] = token.masked_fill_(~unfinished, PAD)
        unfinished &= token != EOS
        # Not on a GPU: it would have to wait for the host to read the result.
        if device.type == "cpu":
            rows = unfinished.flatten().nonzero()[:, 0]
            if not len(rows):
                break
    tokens[..., sampling.max_words].masked_fill_(unfinished, EOS)
    return tokens


def draw(probabilities: Tensor, u: Tensor) -> Tensor:
    """Tokens (N,) with probabilities (N, V) of any sum, by inverting the distribution function.

    Args:
        probabilities: (N, V).
        u: (N,), uniform in (0, 1).
    """
    return invert(probabilities.cumsum(-1), u)


def invert(cumulative: Tensor, u: Tensor) -> Tensor:
    """The token in whose share of (..., V) cumulative probabilities u (...) lies."""
    # Rounding leaves the total slightly off 1, so u is scaled by it.
    total = cumulative[..., -1:].contiguous()
    chosen = torch.searchsorted(cumulative, u[..., None] * total, right=True)
    # If the product was rounded up to the total, it is the last token with a share. NaN is above
    # all numbers: then it is the last token, and the loss will say so.
    last = torch.searchsorted(cumulative, total).clamp(max=cumulative.shape[-1] - 1)
    return chosen.minimum(last)[..., 0]


def uniform(*key: Any) -> Tensor:
    """Numbers in (0, 1), one for each combination of broadcast integers: a hash of them."""
    state = torch.zeros((), dtype=torch.long)
    for part in key:
        state = _mix(state.to(part.device) ^ part if torch.is_tensor(part) else state ^ part)
    return unit(_shift(state, 41))


def unit(bits: Tensor) -> Tensor:
    """The midpoints of 2^23 parts of (0, 1), by integers of 23 bits.

    With 24 bits fp32 would round the last midpoint to 1, outside of the open interval.
    """
    return (bits.float() + 0.5) / 2**23


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's step (Steele et al. 2014), in int64 that wraps around."""
    x = x + -7046029254386353131
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros, also for negative numbers."""
    return (x >> by) & ((1 << (64 - by)) - 1)
