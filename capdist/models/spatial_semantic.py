"""Spatial-Semantic attention (Hu, Wang and Xu) in Up-Down.

`SsUpDown` follows section 2.2 of "Spatial-Semantic Attention for Grounded Image Captioning": to
Up-Down's attention it adds how much captions mention each region in general, estimated from the
detector's boxes and classes. The paper has ReLU inside the attention (``activation``).

It adds less than 0.01 M parameters to Up-Down.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import Dims, register
from capdist.models.updown import UpDown, UpDownMemory, UpDownSizes
from capdist.words import Words


class SsUpDownConfig(UpDownSizes):
    """Up-Down with Spatial-Semantic attention; the two switches are the rows of its Table 2."""

    name: Literal["ss_updown"]
    spatial: bool = Field(True, description="W_p reads where a region lies; else its features.")
    semantic: bool = Field(True, description="W_c reads a region's classes; else its features.")
    share: float = Field(0.5, gt=0, description="λ, how much of β is added to the attention.")


class SpatialSemantic(nn.Module):
    """b_i = W_b ReLU([W_c c_i; W_p p_i]), β = softmax(b); W_c c_i and W_p p_i are one number each.

    With its switch off, W_c or W_p reads the region's features instead, as in the paper's Table 2.
    c and p are not negative, and so the weights that read them are initialised to be not negative:
    a single ReLU unit with a negative input for a class would get no gradient from it.
    """

    def __init__(self, config: SsUpDownConfig, region: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.classes: nn.Module = nn.Linear(region, 1)
        self.place: nn.Module = nn.Linear(region, 1)  # W_p; the name is part of checkpoints
        if config.semantic:
            # One row per class: W_c c_i is the sum of the rows times the classes' probabilities.
            self.classes = nn.Embedding(classes, 1)
            nn.init.uniform_(self.classes.weight)
        if config.spatial:
            self.place = nn.Linear(5, 1)
            nn.init.uniform_(self.place.weight)
            nn.init.uniform_(self.place.bias)
        self.score = nn.Linear(2, 1, bias=False)

    def forward(self, batch: Batch, regions: Tensor) -> Tensor:
        """Log β (B, R) in fp32; close to the least finite number for padding."""
        c = self.classes(batch.class_ids if self.config.semantic else regions)
        if self.config.semantic:
            c = (batch.class_probs.to(c.dtype)[..., None] * c).sum(2)
        p = self.place(locations(batch.boxes).to(c.dtype) if self.config.spatial else regions)
        scores = self.score(torch.cat([c, p], -1).relu())[..., 0].float()
        scores = scores.masked_fill(~batch.region_mask, torch.finfo(scores.dtype).min)
        return scores.log_softmax(-1)


def locations(boxes: Tensor) -> Tensor:
    """P = [x1, x2, y1, y2, s] (..., 5), in the paper's order, of boxes x1 y1 x2 y2 (..., 4).

    s is the box's share of the image's area.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1, x2, y1, y2, (x2 - x1) * (y2 - y1)], -1)


@register("ss_updown")
class SsUpDown(UpDown):
    """Section 2.2 of Hu, Wang and Xu; the rest of the decoder is Up-Down."""

    Config = SsUpDownConfig

    def __init__(self, config: SsUpDownConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.config = config
        self.spatial_semantic = SpatialSemantic(
            config, config.regions or dims.features, dims.classes
        )

    @property
    def needs(self) -> frozenset[str]:
        """Classes, unless their switch is off."""
        return frozenset({"classes"} if self.config.semantic else ())

    def saliency(self, batch: Batch) -> Tensor:
        """Log β (B, R): which regions captions mention, independent of the words so far."""
        return self.spatial_semantic(batch, self._regions(batch))

    def encode(self, batch: Batch) -> UpDownMemory:
        """Up-Down's memory, and β."""
        memory = super().encode(batch)
        beta = self.spatial_semantic(batch, memory.regions).exp()
        return replace(memory, beta=beta.to(memory.regions.dtype))

    def attend_regions(self, memory: UpDownMemory, h: Tensor) -> Tensor:
        """γ_t = α_t + λ β, which sums to 1 + λ."""
        assert memory.beta is not None
        return super().attend_regions(memory, h) + self.config.share * memory.beta[:, None]

    def attention(self, memory: UpDownMemory, tokens: Tensor) -> dict[str, Tensor]:
        """γ_t / (1 + λ) before each word, which sums to 1 as for all models.

        "regions/α" is α_t, "regions/β" is β at every word, and "regions/γ" is "regions".
        """
        assert memory.beta is not None
        share, words = self.config.share, Words.all(tokens)
        gamma = words.pad(self.unroll(memory, words)[1])
        beta = memory.beta[:, None, None].expand_as(gamma)
        regions = gamma / (1 + share)
        parts = {"α": gamma - share * beta, "β": beta, "γ": regions}
        return {"regions": regions} | {f"regions/{name}": part for name, part in parts.items()}
