"""Linear layers in a loop over words, whose weights get one gradient for all steps.

A weight that is used in every step would get a gradient in every step: a product of few rows, and
the sum of two matrices as large as the weight. Here the steps' inputs and gradients are collected,
and multiplied once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional


class StepLinear(nn.Linear):
    """A linear layer whose calls inside `one_gradient` share one gradient of weight and bias."""

    _steps: _Steps | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._steps is None or not torch.is_grad_enabled():
            return super().forward(x)
        if self._steps.token is None:
            self._steps.begin(self, x.device.type)
        return _step(x, self._steps.token, self._steps)


@contextmanager
def one_gradient(model: nn.Module) -> Iterator[None]:
    """Let each `StepLinear` of a model compute one gradient for all of its calls in this block."""
    layers = [module for module in model.modules() if isinstance(module, StepLinear)]
    for layer in layers:
        layer._steps = _Steps()
    try:
        yield
    finally:
        for layer in layers:
            layer._steps = None


class _Steps:
    """The calls of a layer in a loop: (input, gradient) pairs, each (rows, width).

    ``token`` leads from every call to `_Sum`, whose backward pass then runs after those of all
    calls.
    """

    token: Tensor | None = None
    weight: Tensor
    bias: Tensor | None

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def begin(self, layer: StepLinear, device_type: str) -> None:
        """Read the weights. Called by the layer, when ZeRO has them at hand."""
        self.token = _sum(layer.weight, layer.bias, self)
        self.weight = layer.weight.detach()
        self.bias = None if layer.bias is None else layer.bias.detach()
        if torch.is_autocast_enabled(device_type):
            # Autocast itself would convert them in every step.
            dtype = torch.get_autocast_dtype(device_type)
            self.weight = self.weight.to(dtype)
            self.bias = None if self.bias is None else self.bias.to(dtype)


class _Step(Function):
    """x W^T + b of one step; the gradients of W and b are left to `_Sum`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, steps: _Steps) -> Tensor:
        ctx.steps = steps
        ctx.save_for_backward(x, token)
        return functional.linear(x, steps.weight, steps.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, token) = upstream, ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            ctx.steps.pairs.append((x.flatten(0, -2), gradient.flatten(0, -2)))
        before = (gradient @ ctx.steps.weight).to(x.dtype) if ctx.needs_input_grad[0] else None
        return before, token, None


class _Sum(Function):
    """A zero whose gradient is that of weight and bias, of all steps."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, steps: _Steps) -> Tensor:
        ctx.steps, ctx.dtype = steps, weight.dtype
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        inputs, gradients = map(torch.cat, zip(*ctx.steps.pairs, strict=True))
        ctx.steps.pairs.clear()
        d_weight = (gradients.T @ inputs.to(gradients.dtype)).to(ctx.dtype)
        d_bias = gradients.sum(0).to(ctx.dtype) if ctx.needs_input_grad[1] else None
        return d_weight if ctx.needs_input_grad[0] else None, d_bias, None


_step: Callable[..., Tensor] = _Step.apply
_sum: Callable[..., Tensor] = _Sum.apply
