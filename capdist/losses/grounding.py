"""The grounding loss: supervises which regions a caption mentions.

Hu, Wang and Xu, "Spatial-Semantic Attention for Grounded Image Captioning", section 2.3. For every
box g_j of a caption's objects the region with the largest IoU is positive, σ_i = 1, and

    L_gnd = -Σ_i σ_i log β_i,    L = L_ce + μ L_gnd.

In the paper both are sums over one caption's words and regions, here over a batch's captions. The
engine divides L by the number of words and EOS of the whole step, over all micro-batches and ranks,
which leaves the weight of a caption's L_gnd against its L_ce as it is. A region that is the best of
several boxes of a caption counts once.

The paper's arg max gives every box a region; here a box without overlap gives no positive region.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from capdist.batch import Batch
from capdist.models.boxes import pairwise_iou


@runtime_checkable
class Salient(Protocol):
    """A model that estimates, before any word, which regions captions mention."""

    def saliency(self, batch: Batch) -> Tensor:
        """Log β (B, R), over real regions."""


def grounding_loss(log_beta: Tensor, batch: Batch, iou: float = 0.0) -> Tensor:
    """L_gnd, summed over the captions of a batch; a scalar.

    Args:
        log_beta: (B, R).
        batch: with objects.
        iou: a box gives a positive region only if their IoU is larger than this.
    """
    chosen = positives(batch, iou)
    return -(chosen * log_beta[:, None].float()).sum()


def positives(batch: Batch, iou: float = 0.0) -> Tensor:
    """σ (B, S, R): 1 if the region is the best one of a box of the caption's objects."""
    images, captions = batch.tokens.shape[:2]
    overlap = pairwise_iou(batch.objects, batch.boxes)
    best, region = overlap.masked_fill(~batch.region_mask[:, None], -1.0).max(-1)
    regions = batch.regions.shape[1]
    # Boxes without a region, and padding, are written to an additional column.
    unused = captions * regions
    index = batch.object_captions * regions + region
    index = index.masked_fill((best <= iou) | (batch.object_captions < 0), unused)
    flat = overlap.new_zeros(images, unused + 1).scatter(1, index, 1.0)
    return flat[:, :-1].unflatten(1, (captions, regions))
