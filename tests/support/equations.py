"""What several models' equations have in common, written out for one image and one caption."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import CaptionModel
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


def check_equations(
    model: CaptionModel[Any],
    batch: Batch,
    literal: Callable[[Any, Batch, int, int, int], tuple[Tensor, Tensor]],
) -> None:
    """Compare a model with its equations written out, on captions of several images.

    Args:
        model: in evaluation mode; its weights are made unlike each other.
        batch: of `tests.support.models.make_batch`.
        literal: logits after so many words of an image's caption, and the look at its regions.
    """
    roughened(model)
    with torch.inference_mode():
        memory = model.encode(batch)
        logits = model(memory, batch.inputs)
        looks = model.attention(memory, batch.inputs)["regions"]
        for image, caption, length in ((0, 0, 1), (0, 1, 5), (1, 0, 3), (2, 1, 4)):
            expected, weights = literal(model, batch, image, caption, length)
            found = logits[image, caption, length - 1]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            shown = looks[image, caption, length - 1][batch.region_mask[image]]
            torch.testing.assert_close(shown, weights, rtol=1e-4, atol=1e-5)


def check_gradient(
    model: nn.Module, loss: Callable[[], Tensor], parts: tuple[str, ...] = ("",)
) -> None:
    """Compare the gradient of a loss with differences, in a random direction of each parameter.

    Args:
        model: in fp64.
        loss: a scalar of it.
        parts: beginnings of the names of the parameters; by default all.
    """
    loss().backward()
    torch.manual_seed(8)
    for name, parameter in model.named_parameters():
        if not name.startswith(parts):
            continue
        change, nearby = torch.randn_like(parameter), []
        with torch.no_grad():
            for step in (1e-6, -2e-6, 1e-6):
                parameter += step * change
                nearby.append(loss().item())
        assert parameter.grad is not None, name
        slope = (nearby[0] - nearby[1]) / 2e-6
        found = (parameter.grad * change).sum().item()
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-7), name
