"""Training steps of our engines, compared with plain PyTorch loops and with Trainer.

Every rank of every program is a process of its own, so that each has a peak memory; they take turns
in rounds of a few steps, and wait without computing in between.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
from torch.multiprocessing import get_context

from benchmarks.train_corpus import make_shards
from benchmarks.train_explanation import ALONE
from benchmarks.train_figures import ROUNDS, STEPS, Figures, Measured, own_model
from benchmarks.train_process import Failure, Round, serve
from benchmarks.train_setup import BF16, NO_OVERLAP, ZERO, Task
from capdist.config.base import ConfigError
from capdist.config.run_config import load_config
from capdist.errors import CapdistError
from shards.progress import tracked

ROOT = Path(__file__).parents[1]
#: Images of a rank in a step, by the type of device; and of the corpus.
IMAGES, CORPUS = {"cpu": 8, "cuda": 64}, 192
#: Models that a Transformer of torch.nn resembles; recurrent ones are compared with themselves.
TRANSFORMERS = ("glied", "transformer", "meshed_memory")
#: What the programs of a comparison are compared with.
BASES = {"programs": "loop", "means": "before", "zero": "torch"}


def measure(
    model: str, stage: str, images: int | None, compare: Literal["programs", "means", "zero"]
) -> Figures:
    """Time all programs of a comparison in turn.

    Raises:
        ConfigError: if there is no config of that name, or the means are not those of the stage.
        CapdistError: if a program fails.
    """
    if compare == "means" and stage != "xe":
        raise ConfigError(f"--compare means: expected stage xe, got {stage}; leave out --stage")
    if compare == "zero" and not find_spec("deepspeed"):
        raise ConfigError("--compare zero: deepspeed is not installed; pip install -e '.[train]'")
    path = ROOT / "configs" / f"{model}.json"
    if not path.exists():
        raise ConfigError(
            f"--model {model}: {path.parent} has no {path.name}; give the name of a config without "
            ".json, such as glied or coco/updown"
        )
    section = load_config(str(path), []).model.model_dump()
    images = images or IMAGES["cuda" if torch.cuda.is_available() else "cpu"]
    load = os.getloadavg()[0]
    programs = {
        "programs": contestants(model, stage),
        "means": [(1, name) for name in ("torch", *ALONE)],
        "zero": [(most_ranks(), name) for name in ("torch", NO_OVERLAP, *ZERO)],
    }
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        make_shards(shards, max(CORPUS, 2 * images * most_ranks()))
        tasks = [
            Task(name, ranks, section, stage, images, shards) for ranks, name in programs[compare]
        ]
        measured: dict[tuple[int, str], Measured] = {}
        # Only programs with as many ranks are compared: memory need not hold the others.
        for ranks in sorted({task.ranks for task in tasks}):
            measured |= measure_in_turn([task for task in tasks if task.ranks == ranks])
    return Figures(model, stage, images, measured, load, BASES[compare])


def measure_in_turn(tasks: Sequence[Task]) -> dict[tuple[int, str], Measured]:
    """Rounds of tasks that are in memory at the same time and take turns."""
    with ExitStack() as stack:
        running = {(task.ranks, task.program): stack.enter_context(started(task)) for task in tasks}
        for connections in running.values():
            replies(connections)  # they are ready
        losses = {key: ask(connections, "loss")[0] for key, connections in running.items()}
        rounds: dict[tuple[int, str], list[Round]] = {key: [] for key in running}
        for number in tracked(range(ROUNDS + 1), ROUNDS + 1, title="measuring", unit="round"):
            for key, connections in running.items():
                found = ask(connections, "round", STEPS if number else 1)
                if number:
                    rounds[key].append(max(found, key=lambda each: each.step))
        measured = {}
        for key, connections in running.items():
            useful = ask(connections[:1], "useful", 12)[0]
            measured[key] = Measured(
                rounds[key],
                ask(connections, "inspect")[0],
                losses[key],
                captions=mean(captions for captions, _ in useful),
                useful=mean(flops for _, flops in useful),
            )
    return measured


def contestants(model: str, stage: str) -> Iterator[tuple[int, str]]:
    """Numbers of ranks, and names of programs that can run here."""
    names = ["torch", "deepspeed", *BF16, "loop"]
    if not find_spec("deepspeed"):
        names = [name for name in names if "deepspeed" not in name]
    if stage == "xe":
        names.append("one caption")
        if model in TRANSFORMERS:
            names.append("nn.Transformer")
            if torch.cuda.is_available():
                names.append("nn.Transformer, compiled")
        if model in TRANSFORMERS and find_spec("transformers") and find_spec("accelerate"):
            names.append("Trainer")
        elif model in TRANSFORMERS:
            print("transformers or accelerate is missing; for Trainer: pip install -e '.[bench]'")
    for ranks in range(1, most_ranks() + 1):
        yield from ((ranks, name) for name in names if ranks == 1 or own_model(name))


def most_ranks() -> int:
    """2, or 1 where there is no second GPU or core."""
    cuda = torch.cuda.is_available()
    return min(2, torch.cuda.device_count() if cuda else len(os.sched_getaffinity(0)))


@contextmanager
def started(task: Task) -> Iterator[list[Connection]]:
    """The ranks of a task as processes, which send when they are ready; they end with the block."""
    context = get_context("spawn")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    connections, processes = [], []
    for rank in range(task.ranks):
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(task, rank, port, theirs), daemon=True)
        process.start()
        connections.append(ours)
        processes.append(process)
    try:
        yield connections
    finally:
        for process in processes:
            process.kill()
            process.join()


def ask(connections: Sequence[Connection], question: str, *arguments: Any) -> list[Any]:
    """The answers of ranks that compute together."""
    for connection in connections:
        connection.send((question, *arguments))
    return replies(connections)


def replies(connections: Sequence[Connection]) -> list[Any]:
    """What the ranks send.

    Raises:
        CapdistError: with the traceback of a rank that failed.
    """
    found = [connection.recv() for connection in connections]
    for reply in found:
        if isinstance(reply, Failure):
            raise CapdistError(f"a program failed: {reply.traceback}")
    return found
