"""Soft and hard attention against Xu et al.'s equations, and the size of GLIED's Table 2."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.base import build
from capdist.models.soft_attention import HardAttention, ShowAttendTell, SoftAttention
from tests.support.equations import additive, check_equations, lstm, mix, regions_of
from tests.support.models import DIMS, make_batch, size_in_millions, small


@pytest.mark.parametrize(
    ("name", "deep", "millions"),
    # GLIED's Table 2 estimates 12.1 M.
    [("soft_attention", False, 12.0), ("soft_attention", True, 9.9), ("hard_attention", True, 9.9)],
)
def test_size_at_the_papers_settings(name: str, deep: bool, millions: float) -> None:
    count = size_in_millions({"name": name, "deep_output": deep})
    assert round(count, 1) == millions


def literal(
    m: ShowAttendTell, batch: Batch, image: int, caption: int, length: int
) -> tuple[Tensor, Tensor]:
    """Logits after ``length`` words, and α of the last look."""
    regions = [
        (m.regions.weight @ a + m.regions.bias).clamp(min=0) for a in regions_of(batch, image)
    ]
    width = len(regions[0])
    first = torch.tanh(m.first.weight @ (sum(regions) / len(regions)) + m.first.bias)
    h, c = first[:width], first[width:]
    for token in batch.inputs[image, caption, :length]:
        word = m.words.weight[token]
        weights = additive(m.attend, h, regions)
        if isinstance(m, SoftAttention):
            z = torch.sigmoid(m.gate.weight[0] @ h + m.gate.bias) * mix(weights, regions)
        else:
            z = regions[max(range(len(regions)), key=lambda i: float(weights[i]))]
        gates = m.word_gates.weight @ word + m.word_gates.bias
        gates = gates + m.state_gates.weight[:, :width] @ z + m.state_gates.weight[:, width:] @ h
        h, c = lstm(gates, c)
    seen = h
    if m.deep:
        seen = word + m.from_state.weight @ h + m.from_state.bias + m.from_image.weight @ z
    return m.output.weight @ seen + m.output.bias, weights


@pytest.mark.parametrize("name", ["soft_attention", "hard_attention"])
@pytest.mark.parametrize("deep", [True, False])
def test_logits_equal_the_papers_equations(name: str, deep: bool) -> None:
    model, batch = build(small(name, width=11, deep_output=deep), DIMS).eval(), make_batch()
    assert isinstance(model, ShowAttendTell)
    check_equations(model, batch, literal)


def hard() -> HardAttention:
    model = build(small("hard_attention"), DIMS)
    assert isinstance(model, HardAttention)
    return model


def test_hard_attention_draws_regions_by_their_probability() -> None:
    torch.manual_seed(8)
    draws = 20_000
    weights = torch.tensor([0.5, 0.0, 0.3, 0.2]).repeat(1, draws, 1)
    # With the unit vectors as regions, what is seen is the choice itself.
    memory = {"regions": torch.eye(4)[None]}
    seen = hard().train().glimpse(weights, memory, torch.zeros(1, draws, 1))["z"][0]
    assert torch.equal(seen.sort(-1).values, torch.tensor([0.0, 0, 0, 1]).expand(draws, -1))
    counts = seen.sum(0)
    assert counts[1] == 0
    # χ² of two degrees of freedom exceeds 13.8 once in a thousand seeds.
    expected = draws * weights[0, 0, [0, 2, 3]]
    assert ((counts[[0, 2, 3]] - expected) ** 2 / expected).sum() < 13.8


@pytest.mark.parametrize("training", [True, False])
def test_a_drawn_region_has_the_gradient_of_the_expectation(training: bool) -> None:
    torch.manual_seed(9)
    weights = torch.rand(2, 3, 5).softmax(-1).requires_grad_()
    regions, h, pull = torch.randn(2, 5, 7), torch.zeros(2, 3, 24), torch.randn(2, 3, 7)
    seen = hard().train(training).glimpse(weights, {"regions": regions}, h)["z"]
    (seen * pull).sum().backward()
    found = weights.grad
    weights.grad = None
    (weights @ regions * pull).sum().backward()
    torch.testing.assert_close(found, weights.grad)


def test_a_region_drawn_in_bf16_is_exact() -> None:
    torch.manual_seed(9)
    weights = torch.rand(1, 50, 5).softmax(-1).bfloat16()
    memory = {"regions": torch.eye(5)[None].bfloat16()}
    one = hard().train().glimpse(weights, memory, weights)["z"]
    assert set(one.flatten().tolist()) == {0.0, 1.0}
