"""GCN-LSTM: "Exploring Visual Relationship for Image Captioning" (Yao et al., ECCV 2018).

A graph convolution mixes every region with those that it has a relation to, and Up-Down's two LSTMs
attend to the result:

    v_i ← ReLU(Σ_{j ∈ N(i)} g_ij (W_dir(i,j) v_j + b_lab(i,j)))                              (4)
    g_ij = σ(w_dir(i,j) v_j + c_lab(i,j))                                                    (5)

N(i) holds i itself, and every j with an edge to i or from i; W and w depend on the direction, b and
c on the label of the edge. In the semantic graph the edge from subject to object has its predicate
as label, by the member relations, whose predicates a classifier of regions has chosen. In the
spatial graph an edge from i to j has one of 11 labels (section 3.2):

    1 inside      box i lies in box j
    2 covers      box j lies in box i
    3 overlaps    their IoU is 0.5 or more
    4 to 11       the eighth of a turn in which the centre of j lies, seen from that of i, if the
                  centres are at most half of the image's diagonal apart; else there is no edge

i itself is a neighbour by a direction and a label of its own.

The paper trains a model for each graph and averages their probabilities: caption with both runs,
``--run SPATIAL SEMANTIC``. Regions are embedded by ReLU(W v) first.
Distances and angles are those of boxes in shares of the image's sides, as images' sizes are not
known here. The image that the attention LSTM reads is the mean of the mixed regions, as there.

Parameters at the paper's sizes (V = 9,487 words, F = 2048, D = 1000, words 1000, attention 512):
Up-Down with embedded regions 50.1 M + three W 3.0 M = 53.1 M.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.models.base import Dims, register
from capdist.models.boxes import pairwise_iou
from capdist.models.updown import UpDown, UpDownSizes

#: Labels of edges in the spatial graph; 0 is no edge.
SPATIAL_LABELS = 11
INSIDE, COVERS, OVERLAPS, FIRST_DIRECTION = 1, 2, 3, 4


class GcnLstmConfig(UpDownSizes):
    """Sizes as in the paper."""

    name: Literal["gcn_lstm"]
    graph: Literal["spatial", "semantic"] = Field(
        "spatial", description="Whose edges mix regions: those of boxes, or predicates."
    )
    regions: int = Field(1000, description="Width of embedded and of mixed regions.")


class Messages(nn.Module):
    """The terms of Eq. 4 and 5 over the edges of one direction, with ``labels`` kinds of edges."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width, bias=False)  # W
        self.gate = nn.Linear(width, 1, bias=False)  # w
        self.bias = nn.Parameter(torch.zeros(labels, width))  # b
        self.gate_bias = nn.Parameter(torch.zeros(labels))  # c

    def forward(self, regions: Tensor, labels: Tensor, edges: Tensor) -> Tensor:
        """Σ_j g_ij (W v_j + b_lab(i,j)) of (B, R, D) regions, where ``edges`` (B, R, R) is True."""
        gates = (self.gate(regions).transpose(1, 2) + self.gate_bias[labels]).sigmoid() * edges
        # Σ_j g_ij b_lab(i,j) label by label, because (B, R, R, D) is large.
        by_label = gates.new_zeros(*gates.shape[:2], len(self.bias)).scatter_add(2, labels, gates)
        return gates @ self.project(regions) + by_label @ self.bias


class Graph(nn.Module):
    """Eq. 4 and 5 over edges with labels 1 to ``labels``."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.itself = Messages(width, 1)
        self.out, self.into = Messages(width, labels + 1), Messages(width, labels + 1)

    def forward(self, regions: Tensor, labels: Tensor) -> Tensor:
        """(B, R, D) regions and labels (B, R, R) of the edges from i to j to mixed regions."""
        itself = torch.eye(labels.shape[1], dtype=torch.bool, device=labels.device)
        mixed = self.itself(regions, torch.zeros_like(labels), itself)
        mixed = mixed + self.out(regions, labels, labels > 0)
        into = labels.transpose(1, 2)
        return (mixed + self.into(regions, into, into > 0)).relu()


def spatial_relations(boxes: Tensor, mask: Tensor) -> Tensor:
    """Labels (B, R, R) of the edges from box i to box j, 0 where there is none.

    Args:
        boxes: (B, R, 4), x1 y1 x2 y2 in 0..1.
        mask: (B, R), True for real regions.
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    inside = (low[:, :, None] >= low[:, None]) & (high[:, :, None] <= high[:, None])
    inside = inside.all(-1)
    centres = (low + high) / 2
    x, y = (centres[:, None] - centres[:, :, None]).unbind(-1)
    turn = torch.atan2(y, x) % (2 * math.pi)
    direction = FIRST_DIRECTION + (turn / (math.pi / 4)).long().clamp(max=7)
    near = torch.hypot(x, y) <= 0.5 * math.sqrt(2)
    labels = torch.where(near, direction, 0)
    labels = labels.masked_fill(pairwise_iou(boxes, boxes) >= 0.5, OVERLAPS)
    labels = labels.masked_fill(inside.transpose(1, 2), COVERS).masked_fill(inside, INSIDE)
    real = mask[:, :, None] & mask[:, None]
    itself = torch.eye(boxes.shape[1], dtype=torch.bool, device=boxes.device)
    return labels.masked_fill(~real | itself, 0)


def semantic_relations(relations: Tensor, regions: int) -> Tensor:
    """Labels (B, R, R) of the edges from subject to object, 0 where there is none.

    Args:
        relations: (B, E, 3), as in `Batch`.
        regions: R.
    """
    subject, other, predicate = relations.unbind(-1)
    labels = relations.new_zeros(len(relations), regions * regions)
    # Padding is label 0 between regions 0 and 0, which changes nothing.
    labels = labels.scatter_reduce(1, subject * regions + other, predicate, "amax")
    return labels.unflatten(1, (regions, regions))


@register("gcn_lstm")
class GcnLstm(UpDown):
    """Up-Down over the mixed regions.

    Raises:
        ConfigError: if the graph is semantic, but no predicates are known.
    """

    Config = GcnLstmConfig

    def __init__(self, config: GcnLstmConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.semantic = config.graph == "semantic"
        if self.semantic and not dims.predicates:
            raise ConfigError(
                "model.graph semantic: the shards have no predicates; choose spatial, or shards "
                "with relations"
            )
        self.graph = Graph(config.regions, dims.predicates if self.semantic else SPATIAL_LABELS)

    @property
    def needs(self) -> frozenset[str]:
        """Relations, if they are the graph."""
        return super().needs | frozenset({"relations"} if self.semantic else ())

    def _regions(self, batch: Batch) -> Tensor:
        """Embedded regions, mixed along the graph."""
        if self.semantic:
            labels = semantic_relations(batch.relations, batch.region_mask.shape[1])
        else:
            labels = spatial_relations(batch.boxes, batch.region_mask)
        return self.graph(super()._regions(batch), labels)
