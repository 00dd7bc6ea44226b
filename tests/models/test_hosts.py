"""MIA's hosts against their papers' equations, word by word, with and without MIA."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capdist.models.base import Dims, build
from capdist.models.mia import Mia
from tests.support.mia_reference import D, literal_mia
from tests.support.models import make_batch, size_in_millions

#: Millions at V = 9,487 words and F = 2048, alone and with MIA, as the models' docstrings add up.
SIZES = {
    "nic": (12.9, 19.2),
    "spatial_attention": (14.2, 20.5),
    "att_cnn_lstm": (11.8, 19.2),
    "att_fcn": (9.1, 15.4),
    "lstm_a3": (12.9, 19.2),
    "lstm_a4": (12.9, 19.2),
    "lstm_a5": (12.9, 19.2),
}
VISUAL, TEXTUAL = {"output": "visual"}, {"output": "textual"}
REFINEMENTS: dict[str, list[dict[str, str]]] = {
    "nic": [{}, VISUAL],
    "spatial_attention": [{}, VISUAL],
    "att_cnn_lstm": [{}, TEXTUAL],
    "att_fcn": [{}, TEXTUAL],
    "lstm_a3": [{}, VISUAL, TEXTUAL],
    "lstm_a4": [{}, VISUAL, TEXTUAL],
    "lstm_a5": [{}, VISUAL, TEXTUAL],
}
CASES = [(name, row) for name, rows in REFINEMENTS.items() for row in [None, *rows]]


@pytest.mark.parametrize("name", SIZES)
def test_size_at_the_papers_settings(name: str) -> None:
    for refine, size in zip((None, {"name": "mia"}), SIZES[name], strict=True):
        count = size_in_millions({"name": name, "refine": refine})
        assert abs(count - size) < 0.05


def mean(rows: Tensor) -> Tensor:
    return rows.mean(0) if len(rows) else torch.zeros(D)


def lstm_steps(lstm: nn.LSTM, inputs: list[Tensor]) -> list[Tensor]:
    """h after each input, gate by gate."""
    h = c = torch.zeros(D)
    states = []
    for x in inputs:
        gates = lstm.weight_ih_l0 @ x + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
        i, f, g, o = gates[:D], gates[D : 2 * D], gates[2 * D : 3 * D], gates[3 * D :]
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return states


def softmax(scores: list[Tensor]) -> list[Tensor]:
    powers = [score.exp() for score in scores]
    return [power / sum(powers) for power in powers]


def refined(m: Any, regions: Tensor, concepts: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(m.refine, Mia):
        return literal_mia(m.refine, regions, concepts)
    return regions, concepts


def embedded(m: Any, features: Tensor) -> Tensor:
    if not hasattr(m, "regions"):
        return torch.zeros(len(features), D)  # Nothing reads them.
    return torch.stack([m.regions.weight @ f + m.regions.bias for f in features])


def looked_up(table: Tensor, ids: Tensor) -> Tensor:
    return torch.stack([table[number] for number in ids]) if len(ids) else torch.zeros(0, D)


def literal(m: Any, name: str, features: Tensor, ids: Tensor, tokens: Tensor) -> Iterator[Tensor]:
    """Logits after each of a caption's tokens; of one image without padding."""
    table = m.output.weight if name == "att_fcn" else m.words.weight
    i, t, e = embedded(m, features), looked_up(table, ids), looked_up(table, tokens)
    if name == "spatial_attention":
        yield from spatial_attention(m, i, t, e)
        return
    if name == "att_fcn":
        yield from att_fcn(m, i, t, e)
        return
    i, t = refined(m, i, t)
    a, v = mean(t), mean(i)
    first, each = {
        "nic": ([v], 0),
        "att_cnn_lstm": ([a], 0),
        "lstm_a3": ([a, v], 0),
        "lstm_a4": ([a], v),
        "lstm_a5": ([v], a),
    }[name]
    for h in lstm_steps(m.lstm, [*first, *(x + each for x in e)])[len(first) :]:
        yield m.output.weight @ h + m.output.bias


def spatial_attention(m: Any, i: Tensor, t: Tensor, e: Tensor) -> Iterator[Tensor]:
    """Lu et al.'s Eq. 6 to 8."""
    regions, _ = refined(m, i.clamp(min=0), t)
    image = (m.image.weight @ mean(regions) + m.image.bias).clamp(min=0)
    for h in lstm_steps(m.lstm, [torch.cat([x, image]) for x in e]):
        scores = [
            m.score.weight[0] @ torch.tanh(m.key.weight @ v + m.query.weight @ h) for v in regions
        ]
        context = sum(a * v for a, v in zip(softmax(scores), regions, strict=True))
        yield m.output.weight @ (context + h) + m.output.bias


def att_fcn(m: Any, i: Tensor, t: Tensor, e: Tensor) -> Iterator[Tensor]:
    """You et al.'s Eq. 1 and 6 to 9."""
    image = mean(i)
    _, t = refined(m, i, t)
    inputs = [image]
    for y in e:
        alpha = softmax([y @ m.key_in.weight @ concept for concept in t])
        seen = sum((a * concept for a, concept in zip(alpha, t, strict=True)), torch.zeros(D))
        inputs.append(m.project_in.weight @ (y + m.scale_in * seen))
    for h in lstm_steps(m.lstm, inputs)[1:]:
        beta = softmax([h @ m.key_out.weight @ concept.tanh() for concept in t])
        seen = sum((b * concept.tanh() for b, concept in zip(beta, t, strict=True)), torch.zeros(D))
        yield m.output.weight @ m.project_out.weight @ (h + m.scale_out * seen)


@pytest.mark.parametrize(("name", "row"), CASES)
def test_logits_equal_the_papers_equations(name: str, row: dict[str, str] | None) -> None:
    torch.manual_seed(7)
    refine = None if row is None else {"name": "mia", "heads": 3, "hidden": 10, **row}
    model: Any = build({"name": name, "width": D, "refine": refine}, Dims(7, 23)).eval()
    for part, parameter in model.named_parameters():
        # Within MIA it would make all rows alike, so that no look at them could be told apart.
        if not part.startswith("refine."):
            nn.init.normal_(parameter, 0.0, 2 / math.sqrt(D))
    batch = make_batch()
    with torch.inference_mode():
        logits = model(model.encode(batch), batch.inputs)
        for image in range(3):
            regions = batch.regions[image][batch.region_mask[image]]
            concepts = batch.concepts[image][batch.concept_mask[image]]
            expected = literal(model, name, regions, concepts, batch.inputs[image, 1])
            torch.testing.assert_close(
                logits[image, 1], torch.stack(list(expected)), rtol=1e-4, atol=1e-4
            )
