"""A rank of a program of the training benchmark: a process that takes steps when it is asked to."""

from __future__ import annotations

import os
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import seconds
from benchmarks.train_corpus import UsefulFlops, first_image
from benchmarks.train_hugging_face import HuggingFace
from benchmarks.train_programs import (
    ChunkedCrossEntropy,
    Loop,
    Ours,
    PackedCrossEntropy,
    PaddedCrossEntropy,
    PaddedSelfCritical,
    Program,
    Sizes,
    TransformerLoss,
)
from benchmarks.train_sampling import plain_samples
from benchmarks.train_setup import BF16, NO_OVERLAP, ZERO, Setup, Task
from capdist.distributed.end_process import end_process
from capdist.distributed.process_group import ProcessGroup
from capdist.memory import keep_freed_memory
from capdist.objectives.self_critical import SelfCritical

#: Programs whose processes keep freed memory, as `capdist train` does.
KEEPS_MEMORY = ("torch", "deepspeed", *BF16, *ZERO, NO_OVERLAP, "kept memory")
#: Rows and columns of the matrix product that measures the ceiling.
CEILING = 1024


@dataclass(frozen=True)
class Round:
    """Medians of a rank's steps: of all seconds, and of those of each part.

    ``ceiling`` is the flops/s of a large matrix product just before the steps.
    """

    step: float
    parts: dict[str, float]
    ceiling: float


@dataclass(frozen=True)
class Inspection:
    """What does not depend on the machine's speed, of one step of a rank.

    ``flops`` it computes, padding included; 0: it computes in a thread of its own, whose operations
    are not seen. ``host_reads`` of numbers on the device, and the seconds they wait;
    ``all_reduces``; ``peak`` bytes of the process, or on the GPU.
    """

    flops: float
    host_reads: int
    host_wait: float
    all_reduces: int
    peak: int

    @property
    def counts(self) -> dict[str, float]:
        return {
            "host reads": self.host_reads,
            "host wait ms": 1e3 * self.host_wait,
            "all-reduces": self.all_reduces,
        }


@dataclass(frozen=True)
class Failure:
    traceback: str


def serve(task: Task, rank: int, port: int, connection: Connection) -> None:
    """Answer by the methods of `Worker` until the process is killed."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": task.ranks, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(n) for name, n in variables.items()}}
    os.dup2(2, 1)  # what DeepSpeed and Trainer print is not part of the table
    if task.program in KEEPS_MEMORY:
        keep_freed_memory()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // task.ranks))
    try:
        worker = Worker(Setup(task, ProcessGroup.join(600)))
        connection.send(None)
        while True:
            question, *arguments = connection.recv()
            connection.send(getattr(worker, question)(*arguments))
    except Exception:
        connection.send(Failure(traceback.format_exc()))
        end_process(1)


class Worker:
    """Answers for a rank."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.device = setup, setup.group.device
        self.program = PROGRAMS[setup.task.program](setup)

    def loss(self) -> float | None:
        """Of the first batch, per caption; only of cross entropy."""
        batch = next(self.setup.endless())
        return self.program.loss(batch) if self.setup.task.stage == "xe" else None

    def round(self, steps: int) -> Round:
        taken, parts = [], defaultdict(list)
        ceiling = self._ceiling()
        for _ in range(steps):
            self.setup.group.barrier()
            started = perf_counter()
            self.program.step()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(perf_counter() - started)
            for part, spent in self.program.seconds.items():
                parts[part].append(spent)
        return Round(median(taken), {name: median(of) for name, of in parts.items()}, ceiling)

    def inspect(self) -> Inspection:
        with FlopCounterMode(display=False) as counter:
            self.program.step()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            self.program.step()
        events = {event.key: event for event in profiler.key_averages()}
        reads = [event for key, event in events.items() if key == "aten::_local_scalar_dense"]
        return Inspection(
            flops=counter.get_total_flops(),
            host_reads=sum(event.count for event in reads),
            host_wait=sum(event.cpu_time_total for event in reads) / 1e6,
            all_reduces=sum(e.count for key, e in events.items() if key == "c10d::allreduce_"),
            peak=self._peak(),
        )

    def useful(self, batches: int) -> list[tuple[int, float]]:
        """Captions of the first batches, and the flops that they need."""
        stream = self.setup.endless()
        model = self.setup.model().to(self.device)
        first = next(stream)
        flops = UsefulFlops(model, first_image(first))
        rest = [next(stream) for _ in range(batches - 1)]
        return [(batch.caption_count, flops(batch)) for batch in [first, *rest]]

    def _ceiling(self) -> float:
        dtype = torch.bfloat16 if self.setup.task.program in BF16 else torch.float32
        shape = (CEILING, CEILING)
        left, right = (torch.randn(shape, device=self.device).to(dtype) for _ in range(2))
        return 2 * CEILING**3 / seconds(lambda: left @ right, self.device, 1)

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _loop(setup: Setup, **options: Any) -> Program:
    """The stage's loss in a plain loop."""
    if setup.task.stage == "xe":
        return Loop(setup, PaddedCrossEntropy(setup.model()), **options)
    objective = setup.objective(plain_samples)
    assert isinstance(objective, SelfCritical)
    return Loop(setup, PaddedSelfCritical(objective, setup.group.device), **options)


def _transformer(setup: Setup, **options: Any) -> Program:
    parameters = sum(parameter.numel() for parameter in setup.model().parameters())
    return Loop(setup, TransformerLoss(parameters, Sizes()), **options)


def _alone(kind: type[nn.Module], **options: Any) -> Callable[[Setup], Program]:
    """The loop with one of the means that make ours fast."""
    return lambda setup: Loop(setup, kind(setup.model()), **options)


#: Programs by name.
PROGRAMS: dict[str, Callable[[Setup], Program]] = {
    "torch": Ours,
    "deepspeed": Ours,
    **dict.fromkeys((*BF16, *ZERO), Ours),
    NO_OVERLAP: lambda setup: Ours(setup, overlap=False),
    "loop": _loop,
    "one caption": lambda setup: _loop(setup, per_caption=True),
    "nn.Transformer": _transformer,
    "nn.Transformer, compiled": lambda setup: _transformer(setup, compiled=True),
    "Trainer": HuggingFace,
    "before": _alone(PaddedCrossEntropy, fused=False),
    "no padding": _alone(PackedCrossEntropy, fused=False),
    "loss in chunks": _alone(ChunkedCrossEntropy, fused=False),
    "fused Adam": _alone(PaddedCrossEntropy),
    "dropout": _alone(PaddedCrossEntropy, fused=False, dropout=True),
    "kept memory": _alone(PaddedCrossEntropy, fused=False),
}
