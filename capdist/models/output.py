"""The output layer of captioning models, and a loss that never holds the logits of all words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

#: About how many logits at a time. Fewer are slower on a GPU, more do not fit into a processor's
#: caches.
CHUNK = 2**22


class Output(nn.Linear):
    """The last layer of a captioning model: states (..., D) to logits (..., V) of the next word.

    Args:
        width: D.
        vocabulary: V.
        bias: whether it has one.
    """

    def __init__(self, width: int, vocabulary: int, bias: bool = True) -> None:
        super().__init__(width, vocabulary, bias)

    def forward(
        self,
        states: Tensor,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
        smoothing: float = 0.0,
        never: Sequence[int] = (),
    ) -> Tensor:
        """The logits or, for ``targets`` (T,) of states (T, D), the loss Σ_t w_t l_t.

        It is in fp32, or fp64 for states in fp64.

        l_t = −(1 − ε) log p_t(target) − ε/V Σ_v log p_t(v), with ε the ``smoothing`` and p the
        softmax without the words that are ``never`` written; these exclude each other. ``weights``
        w (T,) are constants, 1 if None.

        The loss is a part of this layer, so that ZeRO has its weight at hand.
        """
        if targets is None:
            return super().forward(states)
        if torch.is_autocast_enabled(states.device.type):
            states = states.to(torch.get_autocast_dtype(states.device.type))
        learns = torch.is_grad_enabled()  # which a Function's forward pass cannot see
        weight = self.weight.to(states.dtype)
        bias = None if self.bias is None else self.bias.to(states.dtype)
        return _apply(states, weight, bias, targets, weights, smoothing, list(never), learns)


def weighted_nll(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    never: Sequence[int] = (),
) -> Tensor:
    """The loss of `Output` from the logits (T, V) of all words: its reference implementation."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if never:
        logits = logits.index_fill(-1, torch.tensor(never, device=logits.device), -torch.inf)
    losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    return (losses if weights is None else losses * weights).sum()


class _WeightedNll(Function):
    """The loss of `Output`, whose gradient is computed along with it, chunk by chunk.

    The gradient of l_t by the logits is p − (1 − ε) onehot(target) − ε/V. As the loss is a scalar,
    the backward pass only scales what the forward pass has summed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor | None,
        smoothing: float,
        never: list[int],
        learns: bool,
    ) -> Tensor:
        learns = learns and any(ctx.needs_input_grad)
        dtype = torch.promote_types(states.dtype, torch.float32)
        total = torch.zeros((), dtype=dtype, device=states.device)
        d_states = torch.empty_like(states) if learns else None
        d_weight = torch.empty_like(weight, dtype=dtype) if learns else None
        d_bias = torch.zeros_like(weight[:, 0], dtype=dtype) if learns else None
        # Equal chunks: each reads all weights, and a small one would do little with them.
        chunks = max(1, round(len(states) * len(weight) / CHUNK))
        rows = math.ceil(len(states) / chunks)
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            x, y = states[part], targets[part, None]
            logits = functional.linear(x, weight, bias).to(dtype)
            if never:
                logits[:, never] = -torch.inf
            log_p = logits.log_softmax(-1)
            del logits
            loss = -(1 - smoothing) * log_p.gather(1, y)[:, 0]
            if smoothing:
                loss -= smoothing / len(weight) * log_p.sum(-1)
            total += (loss if weights is None else loss * weights[part]).sum()
            if d_states is None or d_weight is None or d_bias is None:
                continue
            d_logits = log_p.exp_()
            if smoothing:
                d_logits -= smoothing / len(weight)
            d_logits.scatter_add_(1, y, torch.full_like(y, smoothing - 1, dtype=dtype))
            if weights is not None:
                d_logits *= weights[part, None]
            d_bias += d_logits.sum(0)
            d_logits = d_logits.to(x.dtype)
            torch.mm(d_logits, weight, out=d_states[part])
            if x.dtype == dtype:
                torch.addmm(d_weight, d_logits.T, x, beta=int(start > 0), out=d_weight)
            elif start:
                d_weight += d_logits.T @ x
            else:
                d_weight.copy_(d_logits.T @ x)
        ctx.gradients = d_states, d_weight, d_bias if bias is not None else None
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = upstream
        d_states, d_weight, d_bias = ctx.gradients
        ctx.gradients = None  # scaled in place: the loss has one backward pass
        return (
            d_states.mul_(scale),
            d_weight.mul_(scale).to(ctx.dtype),
            None if d_bias is None else d_bias.mul_(scale).to(ctx.dtype),
            *[None] * 5,
        )


_apply: Callable[..., Tensor] = _WeightedNll.apply
