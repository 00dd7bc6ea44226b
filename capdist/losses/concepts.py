"""Noisy-OR: a word is true of an image if a region of it says so (Fang et al., CVPR 2015).

    p_w = 1 - Π_i (1 - σ(z_iw))                                                     (Eq. 1)

Only images are labelled, by the words of their captions, not regions: multiple-instance
learning. The product is a sum in log space: with s_w = Σ_i log(1 + exp z_iw), the log-probability
that no region says the word is -s_w, and that one does is log(1 - exp(-s_w)).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def silence(logits: Tensor, mask: Tensor) -> Tensor:
    """s_w (B, W) in fp32: how surprising it would be if no region said the word, in nats.

    Args:
        logits: (B, R, W), z.
        mask: (B, R), True for the regions that are there.
    """
    return functional.softplus(logits.float()).masked_fill(~mask[..., None], 0).sum(1)


def noisy_or(silence: Tensor) -> Tensor:
    """p_w = 1 - exp(-s_w)."""
    return -torch.expm1(-silence)


def noisy_or_cross_entropy(silence: Tensor, said: Tensor) -> Tensor:
    """-Σ_w [y_w log p_w + (1 - y_w) log(1 - p_w)], (B,).

    Args:
        silence: s (B, W).
        said: y (B, W), 1 for the words of the image's captions.
    """
    return ((1 - said) * silence - said * log_probability(silence)).sum(-1)


def log_probability(silence: Tensor) -> Tensor:
    """log(1 - exp(-s)) without loss of digits near 0 and far from it; finite for s = 0, too.

    Maechler, "Accurately computing log(1 - exp(-|a|))" (2012): which of two forms is exact
    changes at log 2. Neither sees values at which it is not, for their gradient would be NaN.
    """
    small = silence.clamp(torch.finfo(silence.dtype).tiny, math.log(2))
    large = silence.clamp(min=math.log(2))
    return torch.where(
        silence < math.log(2), torch.log(-torch.expm1(-small)), torch.log1p(-torch.exp(-large))
    )
