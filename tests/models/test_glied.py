"""GLIED against its paper: equations written out anew, and the size of Table 2."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from capdist.models.base import Dims, build
from capdist.models.glied import Glied
from tests.support.models import GLIED_ROWS, make_batch, size_in_millions

#: Table 2's #Parameters, "estimated", in millions.
TABLE_2 = {"base": 12.3, "glied": 18.3}


@pytest.mark.parametrize("row", TABLE_2)
def test_size_at_the_papers_settings(row: str) -> None:
    section = {"name": "glied", **GLIED_ROWS.get(row, {})}
    # 9,487 words with UNK, and the specials PAD, BOS and EOS.
    count = size_in_millions(section)
    assert abs(count / TABLE_2[row] - 1) < 0.05


def head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Eq. 1 for one query (d,) and unpadded (n, d)."""
    return torch.softmax(k @ q / math.sqrt(len(q)), 0) @ v


def attend(layer: nn.Module, query: Tensor, source: Tensor) -> Tensor:
    """Eq. 1 and 2, head by head."""
    d = len(query) // layer.heads
    q, k, v = layer.query(query), layer.key(source), layer.value(source)
    parts = [slice(i * d, (i + 1) * d) for i in range(layer.heads)]
    return layer.output(torch.cat([head(q[p], k[:, p], v[:, p]) for p in parts]))


def g(layer: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    return layer.norm(x + y)


def transform(layer: nn.Module, c: Tensor, x: Tensor) -> Tensor:
    """Eq. 5."""
    return g(layer.outer, g(layer.inner, layer.feed_forward(c), c), x)


def literal(m: Glied, regions: Tensor, concepts: Tensor, tokens: Tensor) -> Tensor:
    """Logits of the word after ``tokens``, Eq. 3 to 11 for one caption, one word at a time."""
    i = m.regions(regions)
    a = m.words.projection(m.words.table(concepts))
    i_tilde = i
    if m.config.global_visual:
        grouped = [
            transform(m.transform_vd, g(m.norm_vd, attend(m.attend_vd, r, i), r), r) for r in i
        ]
        i_tilde = torch.stack(grouped)
    width = m.config.width
    xs, ts = [], []
    for position, token in enumerate(tokens):
        rates = [10000 ** (-(2 * (j // 2)) / width) for j in range(width)]
        place = [
            math.sin(position * rate) if j % 2 == 0 else math.cos(position * rate)
            for j, rate in enumerate(rates)
        ]
        x = m.words.projection(m.words.table(token)) + torch.tensor(place)
        xs.append(x)
        ts.append(g(m.norm_ad, attend(m.attend_ad, x, a), x) if m.config.global_attribute else x)
    x, t = xs[-1], ts[-1]
    x_tilde = g(m.norm_x, attend(m.attend_x, t, torch.stack(ts)), t)
    look = attend(m.attend_cross, x_tilde, i_tilde)
    if not m.config.global_attribute:
        look = look + attend(m.attend_cross, x_tilde, a)
    c = transform(m.transform, g(m.norm_cross, look, x_tilde), x)
    if m.config.local:
        c = g(m.norm_local, attend(m.attend_local, c, i) + attend(m.attend_local, c, a), c)
    return m.output(c)


@pytest.mark.parametrize("row", [*GLIED_ROWS, "glied"])
def test_logits_equal_the_papers_equations(row: str) -> None:
    torch.manual_seed(3)
    section = {"name": "glied", "width": 32, "heads": 4, "hidden": 20, "embedding": 12}
    model = build({**section, **GLIED_ROWS.get(row, {})}, Dims(7, 23)).eval()
    assert isinstance(model, Glied)
    batch = make_batch()
    with torch.inference_mode():
        logits = model(model.encode(batch), batch.inputs)
        for image in range(2):
            regions = batch.regions[image][batch.region_mask[image]]
            concepts = batch.concepts[image][batch.concept_mask[image]]
            for length in (1, 2, 5):
                expected = literal(model, regions, concepts, batch.inputs[image, 1, :length])
                torch.testing.assert_close(
                    logits[image, 1, length - 1], expected, rtol=1e-4, atol=1e-4
                )
