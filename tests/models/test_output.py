"""The loss of the output layer, and its gradient, against those of all logits."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from capdist.models import output
from capdist.models.output import Output, weighted_nll

T, D, V = 11, 6, 13
NEVER = (0, 1, 3)


@pytest.mark.parametrize("chunk", [1, 3 * V, 1000], ids=["row by row", "three rows", "at once"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    ("weighted", "smoothing", "never"),
    [(False, 0.0, ()), (False, 0.1, ()), (True, 0.0, ()), (True, 0.3, ()), (True, 0.0, NEVER)],
)
def test_equals_the_loss_of_all_logits(
    chunk: int, bias: bool, weighted: bool, smoothing: float, never: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    layer, states = Output(D, V, bias), torch.randn(T, D, requires_grad=True)
    targets = torch.randint(4, V, (T,))
    weights = torch.randn(T) if weighted else None
    arguments = (targets, weights, smoothing, never)
    inputs = [states, *layer.parameters()]
    with patch.object(output, "CHUNK", chunk):
        loss = layer(states, *arguments)
    reference = weighted_nll(layer(states), *arguments)
    torch.testing.assert_close(loss, reference)
    found, true = (torch.autograd.grad(each / 7, inputs) for each in (loss, reference))
    torch.testing.assert_close(found, true)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_as_that_of_all_logits(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    exact, states = Output(D, V), torch.randn(T, D)
    targets = torch.randint(V, (T,))
    true = torch.autograd.grad(exact(states, targets), exact.weight)[0]
    half = Output(D, V).to(dtype)
    half.load_state_dict(exact.state_dict())
    found = torch.autograd.grad(half(states.to(dtype), targets), half.weight)[0]
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), true, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_accepts_states_of_either_type(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer, states = Output(D, V), torch.randn(T, D, dtype=dtype, requires_grad=True)
    targets = torch.randint(V, (T,))
    inputs = [states, *layer.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        losses = layer(states, targets), weighted_nll(layer(states), targets)
    found, true = (torch.autograd.grad(loss, inputs) for loss in losses)
    for one, other in zip(found, true, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one.float(), other.float(), rtol=0.03, atol=0.03)


class Operations(TorchDispatchMode):
    """Records the most elements of a result, and the names of operations."""

    elements = 0

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Callable[..., object], types, args=(), kwargs=None):
        self.names.add(str(func))
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_no_tensor_has_the_logits_of_all_words() -> None:
    layer, states = Output(4, 50), torch.randn(300, 4, requires_grad=True)
    targets = torch.randint(50, (300,))
    with patch.object(output, "CHUNK", 2000), Operations() as largest:
        layer(states, targets).backward()
    assert largest.elements == 38 * 50  # eight equal chunks
    with Operations() as largest:
        weighted_nll(layer(states), targets).backward()
    assert largest.elements == 300 * 50


def test_without_a_gradient_only_the_loss_is_computed() -> None:
    layer, states, targets = Output(D, V), torch.randn(T, D), torch.randint(V, (T,))
    with torch.no_grad(), Operations() as seen:
        loss = layer(states, targets)
    assert not seen.names & {"aten.mm.out", "aten.addmm.out"}
    assert not loss.requires_grad
    torch.testing.assert_close(loss, weighted_nll(layer(states), targets))
    with Operations() as seen:
        layer(states, targets)
    assert seen.names >= {"aten.mm.out", "aten.addmm.out"}
