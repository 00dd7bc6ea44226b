"""Sums over two ranks, against the gradients that each rank finds alone."""

from __future__ import annotations

import gc
import weakref
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing import spawn

from capdist.engines.gradient_sum import GradientSum

#: Widths of layers whose outputs are added.
WIDTHS = (1, 3, 5, 2, 7)


class Layers(nn.Module):
    """Layers side by side, a frozen one, and one that no input reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(4, width) for width in WIDTHS)
        self.frozen = nn.Linear(4, 2).requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(50))

    def forward(self, x: Tensor, *, backwards: bool) -> Tensor:
        """The backward pass completes the gradients in the opposite order of this."""
        layers = [*self.layers, self.frozen]
        parts = [layer(x).square().sum() for layer in layers[:: -1 if backwards else 1]]
        return torch.stack(parts).sum()


class Reused(nn.Module):
    """The gradient of p is the memory that the backward pass reads for that of q after it."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.ones(2000))
        self.p = nn.Parameter(torch.ones(2, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return ((self.q.sin() * 1 + self.p.view(-1)) * x).sum()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def add_gradients(model: Layers, step: int, rank: int, passes: int, *, summed: Any = None) -> None:
    """Those of a rank's step, over several backward passes, the last one announced."""
    torch.manual_seed(100 * step + rank)
    model.zero_grad()
    for number in range(passes):
        if summed and number == passes - 1:
            summed.begin()
        model(torch.randn(3, 4), backwards=bool(rank)).backward()


def check_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for message, passes, during in product((1, 40, 10**9), (1, 2), (False, True)):
        model, alone = Layers(), Layers()
        summed = GradientSum(model.parameters(), message)
        for step in range(2):
            expected: dict[str, Tensor] = {}
            for each in range(2):
                add_gradients(alone, step, each, passes)
                for name, gradient in gradients(alone).items():
                    expected[name] = gradient + expected.get(name, 0)
            add_gradients(model, step, rank, passes, summed=summed if during else None)
            summed.finish()
            torch.testing.assert_close(gradients(model), expected, rtol=0, atol=0)
    distributed.destroy_process_group()


def check_reused(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    x = torch.rand(2000, generator=torch.Generator().manual_seed(0))
    for _ in range(20):
        model = Reused()
        summed = GradientSum(model.parameters(), message=1)
        summed.begin()
        model(x).backward()
        summed.finish()
        expected = 2 * x * torch.ones(2000).cos()
        torch.testing.assert_close(model.q.grad, expected)
    distributed.destroy_process_group()


def test_a_message_does_not_overwrite_what_the_backward_pass_reads(tmp_path: Path) -> None:
    spawn(check_reused, (str(tmp_path),), nprocs=2)


def test_parameters_are_freed_with_their_model() -> None:
    model = Layers()
    summed = GradientSum(model.parameters())
    unused = weakref.ref(model.unused)
    del model, summed
    gc.collect()
    assert unused() is None


def test_sums_are_those_of_both_ranks(tmp_path: Path) -> None:
    """Whichever gradient is complete first on a rank, and however many make up a message."""
    spawn(check_rank, (str(tmp_path),), nprocs=2)
