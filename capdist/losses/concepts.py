"""Noisy-OR: an image contains a word if one of its regions does (Fang et al., CVPR 2015).

    p_w = 1 - Π_i (1 - σ(z_iw))                                                     (Eq. 1)

Multiple-instance learning: images are labelled, by the words of their captions, but regions are
not. In log space the product is a sum: with s_w = Σ_i log(1 + exp z_iw), the log-probability that
no region contains the word is -s_w, and that some region does is log(1 - exp(-s_w)).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def absence_nll(logits: Tensor, mask: Tensor) -> Tensor:
    """s_w (B, W) = −log P(no region contains the word), in fp32.

    Args:
        logits: (B, R, W), z.
        mask: (B, R), True for real regions.
    """
    return functional.softplus(logits.float()).masked_fill(~mask[..., None], 0).sum(1)


def noisy_or(absence_nll: Tensor) -> Tensor:
    """p_w = 1 - exp(-s_w), (B, W)."""
    return -torch.expm1(-absence_nll)


def noisy_or_cross_entropy(absence_nll: Tensor, labels: Tensor) -> Tensor:
    """-Σ_w [y_w log p_w + (1 - y_w) log(1 - p_w)], (B,).

    Args:
        absence_nll: s (B, W).
        labels: y (B, W), 1 for the words of the image's captions, else 0.
    """
    return ((1 - labels) * absence_nll - labels * log_presence(absence_nll)).sum(-1)


def log_presence(absence_nll: Tensor) -> Tensor:
    """Log p_w = log(1 - exp(-s_w)), accurate for all s ≥ 0 and finite for s = 0.

    Maechler, "Accurately computing log(1 - exp(-|a|))" (2012): one form is accurate below log 2,
    the other above. Each is clamped to its own range, outside of which its gradient would be NaN.
    """
    small = absence_nll.clamp(torch.finfo(absence_nll.dtype).tiny, math.log(2))
    large = absence_nll.clamp(min=math.log(2))
    return torch.where(
        absence_nll < math.log(2), torch.log(-torch.expm1(-small)), torch.log1p(-torch.exp(-large))
    )
