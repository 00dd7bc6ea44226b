"""The meshed-memory Transformer against Cornia et al.'s equations, head by head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from capdist.batch import Batch
from capdist.models.base import build
from capdist.models.layers import MultiHeadAttention
from capdist.models.meshed_memory import MemoryAttention, MeshedMemory
from tests.support.equations import check_equations, regions_of
from tests.support.models import DIMS, make_batch, size_in_millions, small


def test_size_at_the_papers_settings() -> None:
    count = size_in_millions({"name": "meshed_memory"})
    assert round(count, 1) == 37.7


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return layer.weight @ x + layer.bias


def attend(layer: MultiHeadAttention, query: Tensor, source: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What one query sees of a source and the layer's slots, and its heads' mean weights."""
    d = len(query) // layer.heads
    q = linear(layer.query, query)
    keys, values = ([linear(part, s) for s in source] for part in (layer.key, layer.value))
    if isinstance(layer, MemoryAttention):
        keys += [math.sqrt(d) * slot for slot in layer.key_slots]
        values += [math.sqrt(layer.slots) * slot for slot in layer.value_slots]
    parts, all_weights = [], []
    for head in range(layer.heads):
        own = slice(head * d, (head + 1) * d)
        scores = [float(q[own] @ key[own]) / math.sqrt(d) for key in keys]
        weights = torch.softmax(torch.tensor(scores), 0)
        parts.append(sum(w * value[own] for w, value in zip(weights, values, strict=True)))
        all_weights.append(weights)
    return linear(layer.output, torch.cat(parts)), torch.stack(all_weights).mean(0)


def add_norm(layer: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    return layer_norm(x + y, x.shape, layer.norm.weight, layer.norm.bias)


def forward(layer: nn.Sequential, x: Tensor) -> Tensor:
    return linear(layer[2], linear(layer[0], x).clamp(min=0))


def encoded(m: MeshedMemory, regions: list[Tensor]) -> list[list[Tensor]]:
    """X^i of every layer."""
    embed, norm = m.regions[0], m.regions[3]
    x = [linear(embed, a).clamp(min=0) for a in regions]
    x = [layer_norm(a, a.shape, norm.weight, norm.bias) for a in x]
    layers = []
    for layer in m.encoder:
        z = [add_norm(layer.norm_attended, attend(layer.attend, a, x)[0], a) for a in x]
        x = [add_norm(layer.norm, forward(layer.feed_forward, a), a) for a in z]
        layers.append(x)
    return layers


def literal(
    m: MeshedMemory, batch: Batch, image: int, caption: int, length: int
) -> tuple[Tensor, Tensor]:
    """Logits after ``length`` words, and the last block's look at the last layer's regions."""
    layers = encoded(m, regions_of(batch, image))
    width, ys = m.config.width, []
    for position, token in enumerate(batch.inputs[image, caption, :length]):
        angles = [position / 10000 ** ((j - j % 2) / width) for j in range(width)]
        place = [math.cos(a) if j % 2 else math.sin(a) for j, a in enumerate(angles)]
        ys.append(m.words.weight[token] + torch.tensor(place))
    for block in m.blocks:
        above = []
        for position, word in enumerate(ys):
            seen = attend(block.attend_words, word, ys[: position + 1])[0]
            y = add_norm(block.norm_words, seen, word)
            mesh = torch.zeros_like(y)
            for gate, x in zip(block.gates, layers, strict=True):
                seen, weights = attend(block.attend_image, y, x)
                mesh = mesh + torch.sigmoid(linear(gate, torch.cat([y, seen]))) * seen
            z = add_norm(block.norm_image, mesh / math.sqrt(len(layers)), y)
            above.append(add_norm(block.norm, forward(block.feed_forward, z), z))
        ys = above
    return m.output.weight @ ys[-1], weights


def test_logits_equal_the_papers_equations() -> None:
    section = small("meshed_memory", width=12, heads=3, slots=4)
    model, batch = build(section, DIMS).eval(), make_batch()
    assert isinstance(model, MeshedMemory)
    check_equations(model, batch, literal)
