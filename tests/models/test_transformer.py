"""The Captioning Transformer against its equations, head by head, and the size of Table 2."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.models.base import build
from capdist.models.layers import MultiHeadAttention
from capdist.models.transformer import Transformer
from tests.support.equations import check_equations, regions_of
from tests.support.models import DIMS, make_batch, size_in_millions, small


@pytest.mark.parametrize(("hidden", "millions"), [(1024, 27.4), (2048, 33.7)])
def test_size_at_the_papers_settings(hidden: int, millions: float) -> None:
    # GLIED's Table 2 says 27.5 M.
    count = size_in_millions({"name": "transformer", "hidden": hidden})
    assert round(count, 1) == millions


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return layer.weight @ x + layer.bias


def attend(layer: MultiHeadAttention, query: Tensor, source: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What one query sees, and its weights, averaged over the heads."""
    d = len(query) // layer.heads
    q = linear(layer.query, query)
    keys, values = ([linear(part, s) for s in source] for part in (layer.key, layer.value))
    parts, all_weights = [], []
    for head in range(layer.heads):
        own = slice(head * d, (head + 1) * d)
        powers = [math.exp(float(q[own] @ key[own]) / math.sqrt(d)) for key in keys]
        weights = torch.tensor([power / sum(powers) for power in powers])
        parts.append(sum(w * value[own] for w, value in zip(weights, values, strict=True)))
        all_weights.append(weights)
    return linear(layer.output, torch.cat(parts)), torch.stack(all_weights).mean(0)


def g(layer: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    return layer_norm(x + y, x.shape, layer.norm.weight, layer.norm.bias)


def literal(
    m: Transformer, batch: Batch, image: int, caption: int, length: int
) -> tuple[Tensor, Tensor]:
    """Logits after ``length`` words, and the last block's look at the regions."""
    regions = [linear(m.regions, a) for a in regions_of(batch, image)]
    width, xs = m.config.width, []
    for position, token in enumerate(batch.inputs[image, caption, :length]):
        angles = [position / 10000 ** ((j - j % 2) / width) for j in range(width)]
        place = [math.cos(a) if j % 2 else math.sin(a) for j, a in enumerate(angles)]
        xs.append(linear(m.words.projection, m.words.table.weight[token]) + torch.tensor(place))
    for block in m.blocks:
        above = []
        for position, x in enumerate(xs):
            y = g(block.norm_words, attend(block.attend_words, x, xs[: position + 1])[0], x)
            seen, weights = attend(block.attend_image, y, regions)
            z = g(block.norm_image, seen, y)
            inner = linear(block.feed_forward[0], z).clamp(min=0)
            above.append(g(block.norm, linear(block.feed_forward[2], inner), z))
        xs = above
    return linear(m.output, xs[-1]), weights


@pytest.mark.parametrize(("layers", "heads"), [(1, 2), (3, 3)])
def test_logits_equal_the_papers_equations(layers: int, heads: int) -> None:
    section = small("transformer", width=12, layers=layers, heads=heads)
    model, batch = build(section, DIMS).eval(), make_batch()
    assert isinstance(model, Transformer)
    check_equations(model, batch, literal)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model\.heads: 7 heads do not divide the width 512; "):
        build({"name": "transformer", "heads": 7}, DIMS)
