"""CAVP against its equations, candidate by candidate."""

from __future__ import annotations

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.base import Dims, build
from capdist.models.cavp import Cavp
from capdist.models.layers import AdditiveAttention
from tests.support.equations import additive, check_equations, lstm, mix, regions_of
from tests.support.models import DIMS, make_batch, small


def test_size_at_the_papers_settings() -> None:
    with torch.device("meta"):
        model = build({"name": "cavp"}, Dims(2048, 9487 + 3))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 83.6


def seen(policy: AdditiveAttention, h: Tensor, candidates: list[Tensor]) -> Tensor:
    return mix(additive(policy, h, candidates), candidates)


def literal(m: Cavp, batch: Batch, image: int, caption: int, length: int) -> tuple[Tensor, Tensor]:
    """Logits after ``length`` words, and the single sub-policy's last look."""
    assert isinstance(m.regions, torch.nn.Sequential)
    rows = regions_of(batch, image)
    mean = sum(rows, torch.zeros(())) / len(rows)
    regions = [(m.regions[0].weight @ row + m.regions[0].bias).relu() for row in rows]
    pooled = (m.image.weight @ mean + m.image.bias).relu()
    history = [pooled]
    h1 = c1 = h2 = c2 = torch.zeros(m.width)
    for token in batch.inputs[image, caption, :length]:
        gates = m.state_gates.weight @ torch.cat([h2, h1]) + m.image_gates.weight @ pooled
        gates = gates + m.word_gates.weight @ m.words.weight[token] + m.word_gates.bias
        h1, c1 = lstm(gates, c1)
        single = seen(m.attend, h1, regions)
        context = seen(m.context, h1, history)
        composed = seen(m.composition, h1, [context - v for v in regions])
        output = seen(m.choice, h1, [single, composed, pooled])
        history.append(output)
        x = torch.cat([output, h1, h2])
        h2, c2 = lstm(m.language_gates.weight @ x + m.language_gates.bias, c2)
    return m.output.weight @ h2 + m.output.bias, additive(m.attend, h1, regions)


def test_logits_equal_the_equations() -> None:
    model, batch = build(small("cavp", width=11, regions=13), DIMS).eval(), make_batch()
    assert isinstance(model, Cavp)
    check_equations(model, batch, literal)
