"""AoANet against Huang et al.'s equations, head by head and unit by unit."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.aoanet import AoaNet, AttentionOnAttention
from capdist.models.base import build
from tests.support.equations import check_equations, lstm, mix, regions_of
from tests.support.models import DIMS, make_batch, size_in_millions, small


def test_size_at_the_papers_settings() -> None:
    count = size_in_millions({"name": "aoanet"})
    assert round(count) == 93


def attention(layer: AttentionOnAttention, q: Tensor, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """V̂ of one query over rows that are keys and values, and the heads' mean weights."""
    attend, heads = layer.attend, layer.attend.heads
    width = len(q) // heads
    asked = attend.query.weight @ q + attend.query.bias
    keys = [attend.key.weight @ row + attend.key.bias for row in rows]
    values = [attend.value.weight @ row + attend.value.bias for row in rows]
    parts, looks = [], []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        scores = [float(asked[own] @ key[own]) / math.sqrt(width) for key in keys]
        looks.append(torch.softmax(torch.tensor(scores), 0))
        parts.append(mix(looks[-1], [value[own] for value in values]))
    found = attend.output.weight @ torch.cat(parts) + attend.output.bias
    return found, torch.stack(looks).mean(0)


def attention_on_attention(
    layer: AttentionOnAttention, q: Tensor, rows: list[Tensor]
) -> tuple[Tensor, Tensor]:
    found, looks = attention(layer, q, rows)
    both = torch.cat([q, found])
    gate = torch.sigmoid(layer.gate.weight @ both + layer.gate.bias)
    return gate * (layer.information.weight @ both + layer.information.bias), looks


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean()
    scaled = centred / torch.sqrt(centred.square().mean() + layer.eps)
    return scaled * layer.weight + layer.bias


def literal(
    m: AoaNet, batch: Batch, image: int, caption: int, length: int
) -> tuple[Tensor, Tensor]:
    """Logits after ``length`` words, and the last look."""
    rows = [(m.regions.weight @ a + m.regions.bias).clamp(min=0) for a in regions_of(batch, image)]
    for layer in m.refine:
        rows = [norm(layer.norm, a + attention_on_attention(layer.aoa, a, rows)[0]) for a in rows]
    mean = sum(rows, torch.zeros(())) / len(rows)
    h = c = context = torch.zeros_like(mean)
    for token in batch.inputs[image, caption, :length]:
        gates = m.word_gates.weight @ m.words.weight[token] + m.word_gates.bias
        gates = gates + m.context_gates.weight @ (mean + context) + m.state_gates.weight @ h
        h, c = lstm(gates, c)
        context, looks = attention_on_attention(m.aoa, h, rows)
    return m.output.weight @ context + m.output.bias, looks


def test_logits_equal_the_papers_equations() -> None:
    model, batch = build(small("aoanet", width=12, heads=3), DIMS).eval(), make_batch()
    assert isinstance(model, AoaNet)
    check_equations(model, batch, literal)
