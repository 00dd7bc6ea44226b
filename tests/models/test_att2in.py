"""Att2in against Rennie et al.'s equations, unit by unit."""

from __future__ import annotations

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.att2in import Att2in
from capdist.models.base import build
from tests.support.equations import additive, check_equations, mix, regions_of
from tests.support.models import DIMS, make_batch, size_in_millions, small


def test_size_at_the_papers_settings() -> None:
    count = size_in_millions({"name": "att2in"})
    assert round(count, 1) == 14.4


def literal(
    m: Att2in, batch: Batch, image: int, caption: int, length: int
) -> tuple[Tensor, Tensor]:
    """Logits after ``length`` words, and α of the last look."""
    regions = [
        (m.regions.weight @ a + m.regions.bias).clamp(min=0) for a in regions_of(batch, image)
    ]
    width = len(regions[0])
    h = c = torch.zeros(width)
    for token in batch.inputs[image, caption, :length]:
        weights = additive(m.attend, h, regions)
        seen = mix(weights, regions)
        total = m.word_gates.weight @ m.words.weight[token] + m.word_gates.bias
        total = total + m.state_gates.weight @ h
        image_units = m.image_units.weight @ seen
        new_h, new_c = torch.empty(width), torch.empty(width)
        for unit in range(width):
            i, f, o = (torch.sigmoid(total[part * width + unit]) for part in range(3))
            z = [total[(3 + n) * width + unit] + image_units[n * width + unit] for n in range(2)]
            new_c[unit] = i * max(z) + f * c[unit]
            new_h[unit] = o * torch.tanh(new_c[unit])
        h, c = new_h, new_c
    return m.output.weight @ h + m.output.bias, weights


def test_logits_equal_the_papers_equations() -> None:
    model, batch = build(small("att2in", width=11), DIMS).eval(), make_batch()
    assert isinstance(model, Att2in)
    check_equations(model, batch, literal)
