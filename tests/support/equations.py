"""What several models' equations have in common, written out for one image and one caption."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.layers import AdditiveAttention


def regions_of(batch: Batch, image: int) -> list[Tensor]:
    """The regions that are there."""
    rows = zip(batch.regions[image], batch.region_mask[image], strict=True)
    return [region for region, there in rows if there]


def lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """h' and c' of the four gates' inputs, one unit after the other."""
    width, h, new = len(c), torch.empty_like(c), torch.empty_like(c)
    for unit in range(width):
        i, f, o, g = (gates[part * width + unit] for part in range(4))
        new[unit] = torch.sigmoid(f) * c[unit] + torch.sigmoid(i) * torch.tanh(g)
        h[unit] = torch.sigmoid(o) * torch.tanh(new[unit])
    return h, new


def additive(layer: AdditiveAttention, h: Tensor, regions: list[Tensor]) -> Tensor:
    """softmax of w^T f(W_v v_i + W_h h), region by region."""
    scores = []
    for v in regions:
        inside = layer.key.weight @ v + layer.query.weight @ h + layer.query.bias
        scores.append(float(layer.score.weight[0] @ layer.function(inside)))
    return torch.softmax(torch.tensor(scores), 0)


def mix(weights: Tensor, regions: list[Tensor]) -> Tensor:
    """Σ weights_i v_i."""
    return sum((a * v for a, v in zip(weights, regions, strict=True)), torch.zeros(()))


def roughened(model: nn.Module) -> None:
    """Weights so unlike each other that no part of an equation is small beside the others."""
    torch.manual_seed(7)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0, 2 / math.sqrt(parameter.shape[-1]))
