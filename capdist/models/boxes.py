"""Geometry of boxes x1 y1 x2 y2."""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (B, M, N) of boxes (B, M, 4) with (B, N, 4), x1 y1 x2 y2; 0 for two empty boxes."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (a, b)]
    union = areas[0][:, :, None] + areas[1][:, None] - shared
    return torch.where(union > 0, shared / union, 0.0)
