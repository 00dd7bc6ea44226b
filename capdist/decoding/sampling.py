"""Sampled captions that are the same for any split of a batch.

A draw depends on (seed, image, sample, position) alone, by a hash instead of a generator that
is read in turn: the captions of an image do not change with its neighbours, the batch size or
the number of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch, Hypotheses
from capdist.config.decoding import SamplingConfig
from capdist.models.base import CaptionModel
from capdist.vocab import BOS, EOS, PAD, UNK


@torch.inference_mode()
def sample(
    model: CaptionModel[Any], batch: Batch, sampling: SamplingConfig, seed: int
) -> Hypotheses:
    """``sampling.samples`` captions of every image, drawn from the model; UNK is never written.

    The samples of an image share its encoding.

    Returns:
        tokens (B, K, max_words + 1) and scores (B, K), in the order of drawing; a score is the
        sum of log-probabilities of the model itself, whatever the temperature. A caption without
        EOS was cut at the maximum.
    """
    return sample_from(model, model.encode(batch), batch, sampling, seed)


@torch.inference_mode()
def sample_from(
    model: CaptionModel[Any], memory: Any, batch: Batch, sampling: SamplingConfig, seed: int
) -> Hypotheses:
    """`sample` of images that are encoded already."""
    samples, length = sampling.samples, sampling.max_words + 1
    images, device = batch.image_ids.to(batch.regions.device), batch.regions.device
    state = model.start(memory, samples, length)
    token = torch.full((len(images), samples), BOS, device=device)
    tokens = torch.full((len(images), samples, length), PAD, device=device)
    scores = torch.zeros(len(images), samples, device=device)
    number = torch.arange(samples, device=device)
    going = torch.ones_like(token, dtype=torch.bool)
    for position in range(length):
        logits, state = model.step(state, token)
        log_probs = logits.float().log_softmax(-1)
        key = [torch.tensor(seed, device=device), images[:, None], number, position]
        token = draw(restrict(log_probs, sampling), key, gumbel=sampling.gumbel)
        token = token.masked_fill(~going, PAD)
        gain = log_probs.gather(-1, token[..., None])[..., 0]
        scores += gain.masked_fill(~going, 0.0)
        tokens[..., position] = token
        going = going & (token != EOS)
        # A GPU goes on rather than wait for the host to look.
        if device.type == "cpu" and not going.any():
            break
    return Hypotheses(tokens, scores)


def restrict(log_probs: Tensor, sampling: SamplingConfig) -> Tensor:
    """(..., V) logits to draw from: tempered, without specials and what top-k or top-p leaves out.

    Of the tokens in falling order of probability, top-p keeps those before which less than p has
    been gathered (Holtzman et al. 2020); the likeliest is always kept.
    """
    logits = log_probs / sampling.temperature
    logits[..., [PAD, BOS, UNK]] = -torch.inf
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, places = logits.sort(stable=True, dim=-1, descending=True)
        share = ordered.softmax(-1)
        out = share.cumsum(-1) - share >= sampling.top_p
        out[..., 0] = False
        logits = logits.masked_fill(out.scatter(-1, places, out), -torch.inf)
    return logits


def draw(logits: Tensor, key: list[Any], *, gumbel: bool) -> Tensor:
    """A token (B, K) of (B, K, V) logits, by one uniform number or by Gumbel's trick.

    Both draw from softmax(logits); ``gumbel`` takes arg max of logits − log(−log u) with a number
    for every token (Gumbel 1954), the other inverts the distribution function.
    """
    if gumbel:
        every = torch.arange(logits.shape[-1], device=logits.device)
        u = uniform(*[part[..., None] if torch.is_tensor(part) else part for part in key], every)
        return (logits - (-u.log()).log()).argmax(-1)
    cumulative = logits.softmax(-1).cumsum(-1)
    return invert(cumulative, uniform(*key))


def invert(cumulative: Tensor, u: Tensor) -> Tensor:
    """The token whose share of (..., V) cumulative probabilities u lies in."""
    # Scaled by the whole, for rounding leaves the sum a little beside 1.
    whole = cumulative[..., -1]
    chosen = torch.searchsorted(cumulative, (u * whole)[..., None], right=True)[..., 0]
    # A product that was rounded up to the whole is the last token's that has a share.
    return chosen.minimum((cumulative < whole[..., None]).sum(-1))


def uniform(*key: Any) -> Tensor:
    """Numbers in (0, 1), one for each combination of broadcast integers: a hash of them."""
    state = torch.zeros((), dtype=torch.long)
    for part in key:
        state = _mix(state.to(part.device) ^ part if torch.is_tensor(part) else state ^ part)
    return unit(_shift(state, 41))


def unit(bits: Tensor) -> Tensor:
    """Integers of 23 bits to the middles of as many parts of (0, 1).

    With one bit more fp32 would round the last to 1, whose Gumbel noise is infinite.
    """
    return (bits.float() + 0.5) / 2**23


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's step (Steele et al. 2014) on int64 that wraps around."""
    x = x + -7046029254386353131
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    """Shift right without copies of the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)
