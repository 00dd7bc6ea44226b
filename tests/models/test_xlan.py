"""X-LAN and the X-Transformer against Pan et al.'s equations, head by head and region by region."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.models.base import Dims, build
from capdist.models.x_linear import Mix, Projection, XLinearAttention
from capdist.models.xlan import Xlan
from capdist.models.xtransformer import DecoderBlock, XTransformer
from tests.support.equations import check_equations, lstm, mix, regions_of
from tests.support.models import DIMS, make_batch, small


@pytest.mark.parametrize(("name", "millions"), [("xlan", 75.2), ("xtransformer", 137.5)])
def test_size_at_the_papers_settings(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build({"name": name}, Dims(2048, 9487 + 3))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("name", ["xlan", "xtransformer"])
def test_heads_must_divide_the_width(name: str) -> None:
    with pytest.raises(ConfigError, match="3 heads do not divide the width 8"):
        build({"name": name, "width": 8, "heads": 3}, DIMS)


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


def mixed(m: Mix, query: Tensor, row: Tensor) -> Tensor:
    both = linear(m.both, torch.cat([query, row])).relu()
    row = layer_norm(m.norm.norm, both + row)
    if m.feed_forward is None or m.norm_fed is None:
        return row
    inner, outer = m.feed_forward[0], m.feed_forward[2]
    assert isinstance(inner, nn.Linear)
    assert isinstance(outer, nn.Linear)
    return layer_norm(m.norm_fed.norm, linear(outer, linear(inner, row).relu()) + row)


def encoded(m: Xlan | XTransformer, batch: Batch, image: int) -> tuple[Tensor, list[Tensor]]:
    """The image v̂ and the enhanced regions."""
    rows = [celu(linear(m.regions, row)) for row in regions_of(batch, image)]
    if isinstance(m, XTransformer):
        rows = [layer_norm(m.norm_regions, row) for row in rows]
    images = [sum(rows, torch.zeros(())) / len(rows)]
    for block, both in zip(m.encoder.blocks, m.encoder.mix, strict=True):
        assert isinstance(block, XLinearAttention)
        assert isinstance(both, Mix)
        images.append(x_linear(block, images[-1], rows)[0])
        rows = [mixed(both, images[-1], row) for row in rows]
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


def sinusoids(position: int, width: int) -> Tensor:
    angles = [position / 10000 ** (2 * (n // 2) / width) for n in range(width)]
    return torch.tensor([math.cos(a) if n % 2 else math.sin(a) for n, a in enumerate(angles)])


def multimodal(m: XTransformer, pooled: Tensor, mean: Tensor) -> Tensor:
    parts = zip(m.image, (pooled, mean), strict=True)
    first, second = (layer_norm(p[2], celu(linear(p[0], x))) for p, x in parts)
    return first * second


def literal_transformer(
    m: XTransformer, batch: Batch, image: int, caption: int, length: int
) -> tuple[Tensor, Tensor]:
    """Logits after ``length`` words, and the last block's last look."""
    pooled, regions = encoded(m, batch, image)
    width = len(pooled)
    x = []
    for position, token in enumerate(batch.inputs[image, caption, :length]):
        word = math.sqrt(width) * m.words.weight[token] + sinusoids(position, width)
        x.append(layer_norm(m.norm_words, word))
    queries = [
        multimodal(m, pooled, sum(x[: t + 1], torch.zeros(())) / (t + 1)) for t in range(length)
    ]
    last = [queries[-1]]
    for block in m.blocks:
        assert isinstance(block, DecoderBlock)
        after = []
        for t in range(length):
            y = x[t] + x_linear(block.attend_words, queries[t], x[: t + 1])[0]
            asked = layer_norm(block.norm_asked, y)
            seen, looks = x_linear(block.attend_image, asked, regions)
            after.append(layer_norm(block.norm, y + seen))
        queries = after
        last.append(queries[-1])
        if block.mix is not None:
            x = [mixed(block.mix, query, row) for query, row in zip(queries, x, strict=True)]
    value, gate = linear(m.joined, torch.cat(last)).chunk(2)
    out = layer_norm(m.norm, value / (1 + torch.exp(-gate)))
    return linear(m.output, out), looks


def test_logits_of_the_transformer_equal_the_equations() -> None:
    section = small("xtransformer", width=12, heads=3, hidden=20)
    model, batch = build(section, DIMS).eval(), make_batch()
    assert isinstance(model, XTransformer)
    check_equations(model, batch, literal_transformer)
