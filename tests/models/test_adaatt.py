"""AdaAtt against Lu et al.'s equations, with c_t and β_t apart as they write them."""

from __future__ import annotations

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.adaatt import AdaAtt
from capdist.models.base import build
from tests.support.equations import lstm, mix, regions_of, roughened
from tests.support.models import DIMS, make_batch, size_in_millions, small


def test_size_at_the_papers_settings() -> None:
    count = size_in_millions({"name": "adaatt"})
    assert round(count, 1) == 15.8


def literal(
    m: AdaAtt, batch: Batch, image: int, caption: int, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits after ``length`` words, α (Eq. 7) and β of the last look."""
    features = regions_of(batch, image)
    regions = [(m.regions.weight @ a + m.regions.bias).clamp(min=0) for a in features]
    v_g = (m.image.weight @ (sum(features) / len(features)) + m.image.bias).clamp(min=0)
    width = len(v_g)
    h = c = torch.zeros(width)
    for token in batch.inputs[image, caption, :length]:
        x = torch.cat([m.words.weight[token], v_g])
        w_x = torch.cat([m.word_gates.weight, m.image_gates.weight], 1)
        gates = w_x @ x + m.word_gates.bias + m.state_gates.weight @ h
        h, c = lstm(gates[: 4 * width], c)
        s = torch.sigmoid(gates[4 * width :]) * torch.tanh(c)
    w_h, asked = m.score.weight[0], m.query.weight @ h
    z = torch.stack([w_h @ torch.tanh(m.key.weight @ v + asked) for v in regions])
    own = w_h @ torch.tanh(m.sentinel_key.weight @ s + asked)
    alpha = z.exp() / z.exp().sum()
    beta = own.exp() / (z.exp().sum() + own.exp())
    context = beta * s + (1 - beta) * mix(alpha, regions)
    return m.output.weight @ (context + h) + m.output.bias, alpha, beta


def test_logits_equal_the_papers_equations() -> None:
    model, batch = build(small("adaatt", width=11), DIMS).eval(), make_batch()
    assert isinstance(model, AdaAtt)
    roughened(model)
    betas = []
    with torch.inference_mode():
        memory = model.encode(batch)
        logits = model(memory, batch.inputs)
        looks = model.attention(memory, batch.inputs)["regions"]
        for image, caption, length in ((0, 0, 1), (0, 1, 5), (1, 0, 3), (2, 1, 4)):
            expected, alpha, beta = literal(model, batch, image, caption, length)
            betas.append(float(beta))
            found = logits[image, caption, length - 1]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            shown = looks[image, caption, length - 1][batch.region_mask[image]]
            torch.testing.assert_close(shown, alpha, rtol=1e-4, atol=1e-5)
    # A sentinel that no case looks at, or only that, would prove little.
    assert any(0.1 < beta < 0.9 for beta in betas)
