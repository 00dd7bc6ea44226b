"""Sums gradients over the ranks while the backward pass computes others."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn
from torch._utils import _unflatten_dense_tensors

#: Elements of a message, about: 16 MB in fp32.
MESSAGE = 2**22


class GradientSum:
    """Replaces each parameter's gradient by its sum over all ranks.

    The parameters are divided into messages from the last to the first, about the order in which a
    backward pass completes their gradients. All ranks send the same messages in the same order: one
    whose gradients are complete waits for those before it. Parameters without a gradient, which
    must be the same on all ranks, are left out.

    Args:
        parameters: of the model, in the order of its layers.
        message: a message ends when it has so many elements.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], message: int = MESSAGE) -> None:
        self._messages: list[list[nn.Parameter]] = [[]]
        self._number: dict[Tensor, int] = {}
        own = weakref.ref(self)  # a parameter that held it would hold all parameters for ever

        def complete(parameter: Tensor) -> None:
            if alive := own():
                alive._complete(parameter)

        for parameter in reversed([p for p in parameters if p.requires_grad]):
            if sum(p.numel() for p in self._messages[-1]) >= message:
                self._messages.append([])
            self._number[parameter] = len(self._messages) - 1
            self._messages[-1].append(parameter)
            parameter.register_post_accumulate_grad_hook(complete)
        self._missing: list[int] = []  # gradients of each message during the last backward pass
        self._next = 0
        self._sent: list[tuple[list[nn.Parameter], Tensor, distributed.Work]] = []

    def begin(self) -> None:
        """Send messages while the next backward pass, a step's last, computes gradients."""
        self._missing = [len(message) for message in self._messages]

    def finish(self) -> None:
        """Send the other messages, and wait for all sums."""
        while self._next < len(self._messages):
            self._send()
        for parameters, together, work in self._sent:
            work.wait()
            totals = _unflatten_dense_tensors(together, parameters)
            for parameter, total in zip(parameters, totals, strict=True):
                parameter.grad = total
        self._missing, self._next, self._sent = [], 0, []

    def _complete(self, parameter: Tensor) -> None:
        if self._missing:
            self._missing[self._number[parameter]] -= 1
            while self._next < len(self._messages) and not self._missing[self._next]:
                self._send()

    def _send(self) -> None:
        parameters = [p for p in self._messages[self._next] if p.grad is not None]
        self._next += 1
        if not parameters:
            return
        # A copy, also of a single gradient: the backward pass may still read the gradient's memory.
        together = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        work = distributed.all_reduce(together, async_op=True)
        self._sent.append((parameters, together, work))
        for parameter in parameters:
            parameter.grad = None  # its memory is free for the next gradients
