"""The concept detector of Fang et al. (CVPR 2015), section 3, on region features.

For every word w of a list, the probability that an image's captions contain it, from its regions
by noisy-OR (Eq. 1):

    p_w = 1 - Π_i (1 - σ(u_w · h_i + b_w))

Their h_i are a convolutional network's, fine-tuned with this loss; here the features v_i of the
regions are given, so one layer is learned on them:

    h_i = ReLU(W_v v_i + b_v),        i = 1..R
    h_0 = ReLU(W_0 [mean v; max v] + b_0)

The whole image is an additional region, because some words describe a scene and no part of it. b
is initialised with Fang et al.'s -6.58, for which p_w is close to 0.

It writes no captions, so it is not in the registry of captioning models.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.layers import Dropout, masked_mean

#: Initial value of b.
PRIOR = -6.58


class ConceptDetector(nn.Module):
    """A detector of W words.

    Args:
        features: F.
        words: W.
        hidden: width of h.
        dropout: of h.
    """

    def __init__(self, features: int, words: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.region = nn.Linear(features, hidden)
        self.image = nn.Linear(2 * features, hidden)
        self.says = nn.Linear(hidden, words)  # u and b; the name is part of checkpoints
        self.dropout = Dropout(dropout)
        nn.init.constant_(self.says.bias, PRIOR)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, R + 1, W) of the image and its regions, and their mask (B, R + 1)."""
        regions, mask = batch.regions.to(self.region.weight.dtype), batch.region_mask
        highest = regions.masked_fill(~mask[..., None], -torch.inf).amax(1)
        whole = self.image(torch.cat([masked_mean(regions, mask), highest], -1))
        hidden = torch.cat([whole[:, None], self.region(regions)], 1).relu()
        return self.says(self.dropout(hidden)), torch.cat([mask.any(1, keepdim=True), mask], 1)


class CrossFitted(nn.Module):
    """A detector trained on all training images, and one per fold trained on the other folds.

    A captioning model must not be trained on better concepts than it will get at test time: a
    training image's are predicted by ``held_out[its fold]``, any other image's by ``whole``.
    """

    def __init__(self, features: int, words: int, hidden: int, dropout: float, folds: int) -> None:
        super().__init__()
        self.whole = ConceptDetector(features, words, hidden, dropout)
        self.held_out = nn.ModuleList(
            ConceptDetector(features, words, hidden, dropout) for _ in range(folds)
        )

    def forward(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Logits and masks of ``whole``, then of each of ``held_out``."""
        return [detector(batch) for detector in (self.whole, *self.held_out)]
