"""MIA by its equations, row by row and head by head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from capdist.models.mia import Mia

D = 12


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    return layer.weight @ x + layer.bias


def norm(layer: nn.Module, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return layer.weight * centred / (centred.pow(2).mean() + layer.eps).sqrt() + layer.bias


def literal_attention(attend: nn.Module, guide: Tensor, values: list[Tensor]) -> Tensor:
    """Eq. 1 for one query."""
    q = linear(attend.query, guide)
    keys = [linear(attend.key, v) for v in values]
    projected = [linear(attend.value, v) for v in values]
    d, found = D // attend.heads, torch.zeros(D)
    for n in range(attend.heads):
        part = slice(n * d, (n + 1) * d)
        scores = [math.exp(q[part] @ key[part] / math.sqrt(d)) for key in keys]
        for score, value in zip(scores, projected, strict=True):
            found[part] += score / sum(scores) * value[part]
    return linear(attend.output, found)


def literal_layer(layer: nn.Module, guides: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """FFN(MultiHead(Q, V, V)) of Eq. 3 and 4."""
    refined = []
    for guide, value in zip(guides, values, strict=True):
        x = norm(
            layer.norm_attended.norm, value + literal_attention(layer.attend, guide, list(values))
        )
        first, _, second = layer.feed_forward
        y = linear(second, linear(first, x).clamp(min=0))
        refined.append(norm(layer.norm.norm, x + y))
    return refined


def wrapped(source: list[Tensor], rows: int) -> list[Tensor]:
    """A row of the other modality for each of ``rows``, from the beginning again when they end."""
    return [source[j % len(source)] if source else torch.zeros(D) for j in range(rows)]


def literal_mia(m: Mia, regions: Tensor, concepts: Tensor) -> tuple[Tensor, Tensor]:
    """One image's unpadded rows (n, D), by Eq. 3 to 5 as the paper tells them."""
    i, t = list(regions), list(concepts)
    layers, alone = m.layers, m.config.attention == "self"
    for _ in range(m.config.iterations):
        for part in ("visual", "textual") if m.config.start == "textual" else ("textual", "visual"):
            if part not in layers:
                continue
            if part == "visual":
                before = i
                i = literal_layer(layers[part], i if alone else wrapped(t, len(i)), i)
                if m.config.outer_norm:
                    i = [norm(m.outer_norm, a + b) for a, b in zip(i, before, strict=True)]
            else:
                t = literal_layer(layers[part], t if alone else wrapped(i, len(t)), t)
    if m.config.output == "visual":
        return torch.stack(i), concepts
    if m.config.output == "textual":
        return regions, torch.stack(t) if t else concepts
    pairs_i = zip(i, wrapped(t, len(i)), strict=True)
    pairs_t = zip(t, wrapped(i, len(t)), strict=True)
    textual = [norm(m.norm, a + b) for a, b in pairs_t]
    visual = torch.stack([norm(m.norm, a + b) for a, b in pairs_i])
    return visual, torch.stack(textual) if textual else concepts
