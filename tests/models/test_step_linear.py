"""One gradient for all steps equals the sum of every step's."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capdist.models.base import build
from capdist.models.step_linear import StepLinear, one_gradient
from tests.support.models import DIMS, make_batch, small

#: Rows of the words of a loop, and the widths of its layer.
ROWS, INPUTS, OUTPUTS = (5, 3, 1), 4, 4


def gradients(layer: nn.Linear, inputs: list[Tensor], *, shared: bool) -> list[Tensor | None]:
    """Of weight, bias and inputs, for outputs that the next step reads, as in an LSTM."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    layer.zero_grad()
    total, before = torch.zeros(()), torch.zeros(ROWS[0], 1, OUTPUTS)
    with one_gradient(layer) if shared else nullcontext():
        for x in inputs:
            before = layer(x + before[: len(x)]).tanh()
            total = total + before.float().square().sum()
    total.backward()
    return [
        parameter.grad for parameter in (layer.weight, layer.bias, *inputs) if parameter is not None
    ]


@pytest.mark.parametrize("frozen", [(), ("weight",), ("bias",)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_a_linear_layer(bias: bool, frozen: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    layer = StepLinear(INPUTS, OUTPUTS, bias=bias)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name not in frozen)
    inputs = [torch.randn(rows, 1, INPUTS) for rows in ROWS]
    found = gradients(layer, inputs, shared=True)
    torch.testing.assert_close(found, gradients(layer, inputs, shared=False))


def test_autocast_has_the_gradients_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    layer = StepLinear(INPUTS, OUTPUTS)
    inputs = [torch.randn(rows, 1, INPUTS) for rows in ROWS]
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(layer, inputs, shared=True)
        expected = gradients(layer, inputs, shared=False)
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["updown", "att2in", "rfnet"])
def test_a_model_has_the_same_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = build(small(name), DIMS).double().eval(), make_batch()
    batch.tokens[0, 1, 3:] = 0

    def backward() -> dict[str, Any]:
        model.zero_grad()
        words = batch.words
        model.states(model.encode(batch), words).square().sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    found = backward()
    monkeypatch.setattr(StepLinear, "forward", nn.Linear.forward)
    torch.testing.assert_close(found, backward())
