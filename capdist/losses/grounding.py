"""The grounding loss: which regions captions speak of, told to a model that estimates it.

Hu, Wang and Xu, "Spatial-Semantic Attention for Grounded Image Captioning", section 2.3. Of every
box g_j of a caption's objects the region with the largest IoU is positive, σ_i = 1, and

    L_gnd = -Σ_i σ_i log β_i,    L = L_ce + μ L_gnd.

Both are sums: over the captions of a batch here, as the paper's are over one caption's words and
regions. The engine divides their sum L by the words and ends of captions of the whole step, over
all micro-batches and ranks, so that neither says how much a caption's L_gnd weighs against its
L_ce. A region that several boxes of a caption choose counts once.

The paper's arg max has a region for every box; here a box that overlaps none chooses none.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from capdist.batch import Batch


@runtime_checkable
class Salient(Protocol):
    """A model that says before any word which regions captions speak of."""

    def saliency(self, batch: Batch) -> Tensor:
        """Log β (B, R), over the regions that are there."""


def grounding(log_beta: Tensor, batch: Batch, iou: float = 0.0) -> Tensor:
    """L_gnd, summed over the captions of a batch; a scalar.

    Args:
        log_beta: (B, R).
        batch: with its objects.
        iou: a box chooses no region that it does not overlap by more than this.
    """
    chosen = positives(batch, iou)
    return -(chosen * log_beta[:, None].float()).sum()


def positives(batch: Batch, iou: float = 0.0) -> Tensor:
    """σ (B, S, R): 1 where a box of the caption's objects chose the region."""
    images, captions = batch.tokens.shape[:2]
    overlap = overlaps(batch.objects, batch.boxes)
    best, region = overlap.masked_fill(~batch.region_mask[:, None], -1.0).max(-1)
    regions = batch.regions.shape[1]
    # Boxes that choose none, and those that stand behind the last, go to a place of their own.
    nowhere = captions * regions
    place = batch.object_captions * regions + region
    place = place.masked_fill((best <= iou) | (batch.object_captions < 0), nowhere)
    flat = overlap.new_zeros(images, nowhere + 1).scatter(1, place, 1.0)
    return flat[:, :-1].unflatten(1, (captions, regions))


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """IoU (B, M, N) of boxes (B, M, 4) with (B, N, 4), x1 y1 x2 y2; 0 for two empty boxes."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (a, b)]
    union = areas[0][:, :, None] + areas[1][:, None] - shared
    return torch.where(union > 0, shared / union, 0.0)
