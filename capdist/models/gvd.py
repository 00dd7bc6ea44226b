"""GVD: "Grounded Video Description" (Zhou et al., CVPR 2019), its form for images.

Up-Down's two LSTMs attend to regions that are encoded with their class, their place and the other
regions, and in training the boxes of objects supervise the attention before the words that name
them (section 4). With R the embedded regions, W_c an embedding of every class and M_l one of the
boxes:

    M_s(R) = softmax over classes of W_c^T R + B              how likely a region is of each class
    R̃ = ReLU(W_g [LN(R); LN(M_s(R)); LN(M_l)])               the region encoding
    R̃ ← two layers of self-attention over R̃

With β^t the attention weights at word t, γ_i = 1 for a region whose IoU with the box of the object
that word t names is above 0.5, and c the class of that object:

    L_attn = -Σ_i γ_i log β_i^t
    L_grd = -Σ_i γ_i log softmax over regions of (W_c[:, c]^T R + B_c + log β^t)_i
    L_cls = -Σ_i γ_i log M_s(R_i)_c
    L = L_sent + λ_α L_attn + λ_β L_grd + λ_c L_cls

In the localisation loss L_grd, log β^t differs by a constant from the scores that the paper adds,
which cancels. All are sums over words and captions, as L_sent is; the authors' code takes the mean
of each. The paper's metric, F1, is that of `capdist.metrics.grounding`.

Where the shards have less than the paper reads: W_c and B begin there as the detector's classifier,
here small, and the detector's probabilities (the member classes) are a prior, W_c^T R + B + log p,
so that M_s begins as the detector's in both. Classes are the detector's; an object that is not
called as one of them has no L_grd and L_cls. Of several boxes of a word each counts. The image is
the mean of R̃ instead of the features of a whole image, and there is no attention to a grid.
Section 4's R is as wide as the detector's last layer, here as R̃, and its attention LSTM does not
read the language LSTM, as Up-Down's and this one do. The authors use six heads, which do not divide
their width.

Parameters at the paper's sizes (V = 8,639 words, F = 2048, 480 classes): 56.5 M, of which regions
until R̃ have 14.9 M. The losses add none.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from capdist.batch import Batch
from capdist.config.base import ConfigError, Positive
from capdist.models.base import Dims, register
from capdist.models.layers import AddNorm, FeedForward, MultiHeadAttention, full_precision
from capdist.models.objects import at_words, matches
from capdist.models.updown import UpDown, UpDownMemory, UpDownSizes
from capdist.words import Words

#: Probability of the classes that a detector has not kept for a region.
REST = 1e-4


class GvdConfig(UpDownSizes):
    """Sizes and weights of the losses as in the authors' code for Flickr30k."""

    name: Literal["gvd"]
    width: int = Field(1024, description="D, of both LSTMs.")
    embedding: int = Field(512, description="Width of the word table.")
    regions: int = Field(1024, description="Width of embedded and of encoded regions.")
    location: int = Field(300, description="Width of embedded boxes.")
    layers: int = Field(2, ge=0, description="Of self-attention between regions.")
    heads: Positive = Field(8, description="Of self-attention; they must divide regions.")
    attention_loss: float = Field(0.1, ge=0, description="λ_α; 0: L_attn is off.")
    grounding_loss: float = Field(0.1, ge=0, description="λ_β; 0: L_grd is off.")
    class_loss: float = Field(0.1, ge=0, description="λ_c; 0: L_cls is off.")
    iou: float = Field(0.5, ge=0, lt=1, description="γ is 1 above this IoU.")


class SelfAttentionLayer(nn.Module):
    """Attention between regions and a feed-forward layer, each with a shortcut and its norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attend = MultiHeadAttention(width, heads, dropout)
        self.norm_attended = AddNorm(width, dropout)
        self.feed_forward = FeedForward(width, width // 2)
        self.norm = AddNorm(width, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Regions (B, R, D) with ``mask`` (B, 1, R), True for real ones."""
        x = self.norm_attended(self.attend(x, *self.attend.project(x), mask), x)
        return self.norm(self.feed_forward(x), x)


@register("gvd")
class Gvd(UpDown):
    """Up-Down over R̃, with the losses.

    Raises:
        ConfigError: if the heads do not divide the regions' width.
    """

    Config = GvdConfig

    def __init__(self, config: GvdConfig, dims: Dims) -> None:
        width = config.regions
        if width % config.heads:
            raise ConfigError(
                f"model.heads: {config.heads} heads do not divide the regions' width {width}; "
                "choose a number that does"
            )
        super().__init__(config, dims)
        self.config = config
        self.grounded = any((config.attention_loss, config.grounding_loss, config.class_loss))
        self.classes = nn.Linear(width, dims.classes)  # W_c and B
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.zeros_(self.classes.bias)
        self.location = nn.Linear(4, config.location)
        self.encoding = nn.Linear(width + dims.classes + config.location, width)  # W_g
        layers = (SelfAttentionLayer(width, config.heads, 0.2) for _ in range(config.layers))
        self.context = nn.ModuleList(layers)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"classes"})

    @property
    def supervision(self) -> frozenset[str]:
        """Grounding, unless all losses are off."""
        return super().supervision | frozenset({"grounding"} if self.grounded else ())

    def class_scores(self, batch: Batch, regions: Tensor) -> Tensor:
        """W_c^T R + B + log p, (B, R, K), of embedded regions (B, R, D)."""
        scores = self.classes(regions)
        prior = torch.full_like(scores, REST)
        prior = prior.scatter_add(-1, batch.class_ids, batch.class_probs.to(prior.dtype))
        return scores + prior.log()

    def _regions(self, batch: Batch) -> Tensor:
        """R̃ (B, R, D)."""
        regions = super()._regions(batch)
        kinds = full_precision(self.class_scores(batch, regions)).softmax(-1).to(regions.dtype)
        places = self.dropout(self.location(batch.boxes.to(regions.dtype)).relu())
        parts = [functional.layer_norm(x, x.shape[-1:]) for x in (regions, kinds, places)]
        encoded = self.dropout(self.encoding(torch.cat(parts, -1)).relu())
        for layer in self.context:
            encoded = layer(encoded, batch.region_mask[:, None])
        return encoded

    def own_loss(
        self, memory: UpDownMemory, batch: Batch, words: Words, hidden: Tensor, weights: Tensor
    ) -> Tensor | None:
        """λ_α L_attn + λ_β L_grd + λ_c L_cls, and the prophet's losses if there is one."""
        prophet = super().own_loss(memory, batch, words, hidden, weights)
        if not self.grounded:
            return prophet
        scores = full_precision(self.class_scores(batch, super()._regions(batch)))
        loss = self.grounding_losses(batch, words.pad(weights), scores)
        return loss if prophet is None else loss + prophet

    def grounding_losses(self, batch: Batch, weights: Tensor, scores: Tensor) -> Tensor:
        """The three losses, weighted and summed over all captions.

        Args:
            batch: with objects.
            weights: β, (B, S, L, R).
            scores: of `class_scores`, (B, R, K).
        """
        c, known = batch.object_classes.clamp(min=0), batch.object_classes >= 0
        gamma = matches(batch, self.config.iou).to(scores.dtype)
        with_class = gamma * known[..., None]
        weights = full_precision(at_words(batch, weights)).clamp(min=torch.finfo().tiny)
        log_beta = weights.log()
        of_class = _at_classes(scores, c)
        located = (of_class + log_beta).masked_fill(~batch.region_mask[:, None], -torch.inf)
        located = located.log_softmax(-1).masked_fill(~batch.region_mask[:, None], 0.0)
        kinds = _at_classes(scores.log_softmax(-1), c)
        return -(
            self.config.attention_loss * (gamma * log_beta).sum()
            + self.config.grounding_loss * (with_class * located).sum()
            + self.config.class_loss * (with_class * kinds).sum()
        )


def _at_classes(values: Tensor, classes: Tensor) -> Tensor:
    """Of (B, R, K) values those of the class of each object (B, G), as (B, G, R)."""
    index = classes[..., None].expand(-1, -1, values.shape[1])
    return values.transpose(1, 2).gather(1, index)
