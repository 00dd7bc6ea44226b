"""X-LAN against Pan et al.'s equations, head by head and region by region."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.models.base import Dims, build
from capdist.models.x_linear import Projection, XLinearAttention
from capdist.models.xlan import Xlan
from tests.support.equations import check_equations, lstm, mix, regions_of
from tests.support.models import DIMS, make_batch, small


def test_size_at_the_papers_settings() -> None:
    with torch.device("meta"):
        model = build({"name": "xlan"}, Dims(2048, 9487 + 3))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 75.2


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="3 heads do not divide the width 8"):
        build({"name": "xlan", "width": 8, "heads": 3}, DIMS)


def celu(x: Tensor) -> Tensor:
    return torch.stack([v if v > 0 else 1.3 * (torch.exp(v / 1.3) - 1) for v in x])


def normed(x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt(centred.square().mean() + 1e-5)


def layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return normed(x) * layer.weight + layer.bias


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return layer.weight @ x + layer.bias


def sigma(m: Projection, x: Tensor) -> Tensor:
    """σ(W x), each head normalised."""
    parts = celu(linear(m.linear, x)).chunk(m.norm.num_groups)
    return torch.cat([normed(part) for part in parts]) * m.norm.weight + m.norm.bias


def x_linear(m: XLinearAttention, q: Tensor, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """V̂, and β^s averaged over the heads."""
    size, parts, looks = len(q) // m.heads, [], []
    for head in range(m.heads):
        own = slice(head * size, (head + 1) * size)
        keys = [sigma(m.key, row)[own] * sigma(m.query, q)[own] for row in rows]
        values = [sigma(m.value, row)[own] * sigma(m.value_query, q)[own] for row in rows]
        joint = [linear(m.joint, key).relu() for key in keys]
        spatial = torch.stack([m.spatial.weight[0] @ b for b in joint]).softmax(0)
        mean = sum(joint, torch.zeros(())) / len(rows)
        channel = 1 / (1 + torch.exp(-linear(m.channel, mean)))
        parts.append(channel * mix(spatial, values))
        looks.append(spatial)
    return torch.cat(parts), torch.stack(looks).mean(0)


def encoded(m: Xlan, batch: Batch, image: int) -> tuple[Tensor, list[Tensor]]:
    """The image v̂ and the enhanced regions."""
    rows = [celu(linear(m.regions, row)) for row in regions_of(batch, image)]
    images = [sum(rows, torch.zeros(())) / len(rows)]
    for block, both, norm in zip(m.encoder.blocks, m.encoder.mix, m.encoder.norms, strict=True):
        assert isinstance(block, XLinearAttention)
        assert isinstance(both, nn.Linear)
        assert isinstance(norm, nn.LayerNorm)
        images.append(x_linear(block, images[-1], rows)[0])
        mixed = [linear(both, torch.cat([images[-1], row])).relu() + row for row in rows]
        rows = [layer_norm(norm, row) for row in mixed]
    return layer_norm(m.encoder.norm, linear(m.encoder.image, torch.cat(images))), rows


def literal(m: Xlan, batch: Batch, image: int, caption: int, length: int) -> tuple[Tensor, Tensor]:
    """Logits after ``length`` words, and the last look."""
    pooled, rows = encoded(m, batch, image)
    h = c = context = torch.zeros_like(pooled)
    for token in batch.inputs[image, caption, :length]:
        gates = linear(m.word_gates, m.words.weight[token]) + m.state_gates.weight @ h
        h, c = lstm(gates + m.context_gates.weight @ (pooled + context), c)
        seen, looks = x_linear(m.block, h, rows)
        attended = layer_norm(m.norm, linear(m.attended, torch.cat([h, seen])))
        value, gate = linear(m.context, torch.cat([attended, h])).chunk(2)
        context = value / (1 + torch.exp(-gate))
    return linear(m.output, context), looks


def test_logits_equal_the_papers_equations() -> None:
    model, batch = build(small("xlan", width=12, heads=3), DIMS).eval(), make_batch()
    assert isinstance(model, Xlan)
    assert math.isclose(model.block.query.activation.alpha, 1.3)
    check_equations(model, batch, literal)
