"""A cost model of a training step, explained in docs/scale.md.

A program is a list of counted operations. Each takes the longest of three times: its launch, its
arithmetic, its memory traffic (a roofline per operation). Several ranks add their all-reduces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.timing import seconds
from capdist.distributed.process_group import ProcessGroup

Floats = NDArray[np.float64]

#: Sizes of the matrix product, the copy and the launches that measure a processor.
ROWS, WIDTH, HIDDEN, COPIED, LAUNCHES = 2_048, 512, 2_048, 2**24, 1_000


@dataclass(frozen=True)
class Work:
    """The N operations of a program: (N,) flops, and (N,) bytes read and written."""

    flops: Floats
    bytes: Floats

    def __add__(self, other: Work) -> Work:
        """One program after the other."""
        return Work(
            np.concatenate([self.flops, other.flops]), np.concatenate([self.bytes, other.bytes])
        )


class _Counter(TorchDispatchMode):
    def __init__(self, operations: list[tuple[int, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = operations

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        out = func(*args, **named)
        views = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if not views and func.namespace != "c10d":
            formula = flop_registry.get(func._overloadpacket)
            flops = formula(*args, **named, out_val=out) if formula else 0
            # A fused optimizer returns nothing, and writes into its arguments.
            written = _written(func, args, named) if out is None else ()
            tensors = [t for t in tree_leaves((args, named, out, written)) if isinstance(t, Tensor)]
            self.operations.append((flops, sum(t.nbytes for t in tensors)))
        return out


def _written(func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """The arguments that an operation writes into."""
    given = [*zip(func._schema.arguments, args, strict=False)]
    given += [(a, named[a.name]) for a in func._schema.arguments if a.name in named]
    return [value for argument, value in given if argument.is_write]


def count(run: Callable[[], Any]) -> Work:
    """The operations of a call; views cost nothing, and communication is not counted."""
    operations: list[tuple[int, int]] = []
    with _Counter(operations):
        run()
    flops, sizes = np.array(operations, np.float64).reshape(-1, 2).T
    return Work(flops, sizes)


@dataclass(frozen=True)
class Processor:
    """A CPU core or a GPU: seconds to launch an operation, flops/s and bytes/s."""

    launch: float
    flops: float
    bytes: float

    def seconds(self, work: Work) -> float:
        """Σ over operations of max(launch, flops / F, bytes / M)."""
        parts = [np.full_like(work.flops, self.launch), work.flops / self.flops]
        return float(np.max([*parts, work.bytes / self.bytes], 0).sum())

    @classmethod
    def measure(cls, device: torch.device, rounds: int) -> Processor:
        """Measure this process's processor, each time as the median of ``rounds`` calls."""
        left = torch.randn(ROWS, WIDTH, device=device)
        right = torch.randn(WIDTH, HIDDEN, device=device)
        long, short = torch.randn(COPIED, device=device), torch.randn(1, device=device)
        target = torch.empty_like(long)

        def launch() -> None:
            for _ in range(LAUNCHES):
                short.neg()

        return cls(
            seconds(launch, device, rounds) / LAUNCHES,
            2 * ROWS * WIDTH * HIDDEN / seconds(lambda: left @ right, device, rounds),
            2 * long.nbytes / seconds(lambda: torch.neg(long, out=target), device, rounds),
        )


@dataclass(frozen=True)
class Network:
    """Seconds per message, and bytes/s within a node of ``node`` ranks and between nodes."""

    latency: float
    inside: float
    across: float
    node: int

    def all_reduce(self, size: float, ranks: int) -> float:
        """2 ⌈log₂ W⌉ latencies, and 2 (W − 1) / W of the bytes through the slowest link."""
        link = self.inside if ranks <= self.node else self.across
        return 2 * math.ceil(math.log2(ranks)) * self.latency + (
            2 * (ranks - 1) / ranks * size / link
        )

    @classmethod
    def measure(cls, group: ProcessGroup, rounds: int) -> Network:
        """Measure the network between two ranks of a node; all ranks must call this."""
        device = group.device
        small, large = (torch.zeros(n, device=device) for n in (1, COPIED))
        latency = seconds(lambda: distributed.all_reduce(small), device, rounds) / 2
        transfer = seconds(lambda: distributed.all_reduce(large), device, rounds) - 2 * latency
        return cls(latency, large.nbytes / transfer, math.nan, 2)
