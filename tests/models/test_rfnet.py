"""RFNet against Jiang et al.'s equations, set by set and unit by unit, in fp64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.base import Dims, build
from capdist.models.layers import AdditiveAttention
from capdist.models.rfnet import RfNet
from capdist.vocab import EOS, PAD
from tests.support.equations import check_equations, check_gradient, lstm, mix, roughened
from tests.support.models import DIMS, B, R, make_batch, small

STEPS = {"review_steps": 3, "fusion_steps": 2}
TWO = replace(DIMS, further=(4,))


def make(dims: Dims, **options: Any) -> RfNet:
    torch.manual_seed(3)
    section = small("rfnet", width=11, frequent=15, **{**STEPS, **options})
    model = build(section, dims).eval().double()
    assert isinstance(model, RfNet)
    return model


def batch_of(dims: Dims) -> Batch:
    """In fp64; with two sets, images have 2 + 3, 1 + 1 and 1 + 2 regions."""
    batch = make_batch()
    if dims.further:
        sets = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0]])
        mask = torch.arange(R) < torch.tensor([5, 2, 3])[:, None]
        regions = torch.randn(B, R, 7, generator=torch.Generator().manual_seed(4))
        regions = regions * mask[..., None]
        regions[..., 4:][sets == 1] = 0
        batch = replace(batch, regions=regions, region_mask=mask, region_sets=sets)
    return replace(batch, regions=batch.regions.double())


def test_size_at_the_settings_of_the_authors_code() -> None:
    dims = Dims(2048, 9487 + 3, further=(1536, 1280, 2208, 1536))
    with torch.device("meta"):
        model = build({"name": "rfnet"}, dims)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 489


def look(layer: AdditiveAttention, h: Tensor, vectors: list[Tensor]) -> Tensor:
    """softmax of w^T tanh(W_v v_i + W_h h)."""
    scores = []
    for v in vectors:
        inside = layer.key.weight @ v + layer.query.weight @ h + layer.query.bias
        scores.append(layer.score.weight[0] @ torch.tanh(inside))
    return torch.stack(scores).softmax(0)


def fused(
    m: RfNet, batch: Batch, image: int
) -> tuple[list[list[Tensor]], list[Tensor], list[Tensor], Tensor, Tensor]:
    """Every B^(m), C, the shares of the regions in each of its vectors, and the last h and c."""
    sets, h, c = [], [], []
    for number, width in enumerate(m.features):
        rows = [
            batch.regions[image, i, :width]
            for i in range(R)
            if batch.region_mask[image, i] and batch.region_sets[image, i] == number
        ]
        sets.append(rows)
        first: Any = m.first[number]
        h.append(first.weight @ (sum(rows[1:], rows[0]) / len(rows)) + first.bias)
        c.append(h[-1])
    count = len(sets)
    thoughts: list[list[Tensor]] = [[] for _ in sets]
    shares: list[list[Tensor]] = [[] for _ in sets]
    for t in range(STEPS["review_steps"]):
        everything = torch.cat(h)
        for n in range(count):
            step: Any = m.review[t * count + n]
            weights = look(step.attend[0], h[n], sets[n])
            x = torch.cat([everything, mix(weights, sets[n])])
            h[n], c[n] = lstm(step.gates.weight @ x + step.gates.bias, c[n])
            thoughts[n].append(h[n])
            shares[n].append(weights)
    state, cell = sum(h[1:], h[0]) / count, sum(c[1:], c[0]) / count
    vectors, parts = [], []
    for t in range(STEPS["fusion_steps"]):
        step = m.fusion[t]
        looks = [look(step.attend[n], state, thoughts[n]) for n in range(count)]
        seen = [mix(looks[n], thoughts[n]) for n in range(count)]
        gates = step.gates.weight @ torch.cat([state, *seen]) + step.gates.bias
        state, cell = lstm(gates, cell)
        vectors.append(state)
        parts.append(torch.cat([mix(looks[n], shares[n]) / count for n in range(count)]))
    return thoughts, vectors, parts, state, cell


def literal(m: RfNet, batch: Batch, image: int, caption: int, length: int) -> tuple[Tensor, Tensor]:
    """Logits after ``length`` words, and the last look."""
    _, vectors, parts, h, c = fused(m, batch, image)
    for token in batch.inputs[image, caption, :length]:
        weights = look(m.attend, h, vectors)
        x = torch.cat([mix(weights, vectors), h])
        gates = m.word_gates.weight @ m.words.weight[token] + m.word_gates.bias
        h, c = lstm(gates + m.state_gates.weight @ x, c)
    return m.output.weight @ h + m.output.bias, mix(weights, parts)


@pytest.mark.parametrize("dims", [DIMS, TWO], ids=["one set", "two sets"])
def test_logits_equal_the_papers_equations(dims: Dims) -> None:
    check_equations(make(dims), batch_of(dims), literal)


def literal_loss(m: RfNet, batch: Batch, weight: float, frequent: int) -> float:
    """Eq. 19's second part, word by word; ids of words begin with 4."""
    total = 0.0
    for image, captions in enumerate(batch.targets.tolist()):
        thoughts, vectors, *_ = fused(m, batch, image)
        for number, of_set in enumerate([*thoughts, vectors]):
            layer: Any = m.scores[number]
            each = torch.stack([layer.weight @ x + layer.bias for x in of_set])
            s = [max(column) for column in each.T.tolist()]
            for caption in captions:
                wanted = {word - 4 for word in caption if 4 <= word < 4 + frequent}
                others = set(range(frequent)) - wanted
                for j in wanted:
                    total += sum(max(0.0, 1 - (s[j] - s[i])) for i in others) / frequent
    return weight * total / (len(m.features) + 1)


def loss_of(m: RfNet, batch: Batch) -> Tensor:
    loss = m.supervised(m.encode(batch), batch, batch.words)[1]
    assert loss is not None
    return loss


@pytest.mark.parametrize("dims", [DIMS, TWO], ids=["one set", "two sets"])
def test_the_loss_equals_the_papers_equations(dims: Dims) -> None:
    model, batch = make(dims, discriminative_loss=0.7), batch_of(dims)
    batch.tokens[0, 1, 3:] = torch.tensor([EOS, PAD, PAD])
    batch.tokens[2, 1] = PAD
    roughened(model)
    with torch.inference_mode():
        expected = literal_loss(model, batch, 0.7, 15)
        assert expected > 1
        assert loss_of(model, batch).item() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_equals_differences() -> None:
    model, batch = make(TWO, review_steps=2), batch_of(TWO)
    check_gradient(
        model,
        lambda: model.own_loss(model.encode(batch), batch.targets),
        ("first", "review", "fusion", "scores"),
    )
