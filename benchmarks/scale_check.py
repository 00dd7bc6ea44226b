"""Timed steps of real engines on this machine, to validate the cost model of `cost.py`."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import pad

from benchmarks.corpus import make_corpus
from benchmarks.cost import Network, Processor, Work, count
from benchmarks.decode import CLASSES, FEATURES, VOCABULARY, make_batch
from capdist.batch import Batch
from capdist.config.run_config import Config, parse_config
from capdist.distributed.end_process import end_process
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.factory import make_engine
from capdist.models.base import CaptionModel, Dims, build
from capdist.objectives.cross_entropy import CrossEntropy, CrossEntropyStage
from capdist.vocab import BOS, PAD

WARM_UP, STEPS = 2, 7


@dataclass(frozen=True)
class Trial:
    """Cross-entropy training steps with one micro-batch of ``images`` images on each rank.

    ``rounds``: timed calls to measure the processor and the network.
    """

    model: str
    engine: str
    ranks: int
    images: int
    rounds: int = 30

    @property
    def config(self) -> Config:
        stage = {
            "objective": "xe",
            "epochs": 1,
            "batch": {"images": self.images * self.ranks, "micro": self.images},
            "optimizer": {"lr": 1e-4},
        }
        config = {
            "description": "timed",
            "run": "",
            "engine": self.engine,
            "data": {"shards": ""},
            "model": {"name": self.model},
            "stages": [stage],
            "deepspeed": {"zero_optimization": {"stage": 1}},
        }
        return parse_config(config, "bench.py scale")


@dataclass(frozen=True)
class Timed:
    """Seconds of each step on the first rank, the work of one step, and the measured hardware."""

    steps: list[float]
    work: Work
    processor: Processor
    network: Network | None

    @property
    def step(self) -> float:
        return median(self.steps)


def new_model(name: str) -> CaptionModel[Any]:
    """A registered model at COCO's sizes with deterministic random weights.

    Raises:
        ConfigError: if there is no such model.
    """
    torch.manual_seed(1)
    return build({"name": name}, Dims(FEATURES, VOCABULARY, CLASSES), "--model")


def captioned_batch(images: int) -> Batch:
    """Random images with five synthetic captions each, as long as COCO's."""
    references = make_corpus(images).references
    captions = [torch.tensor(caption) for group in references.values() for caption in group]
    padded = torch.nn.utils.rnn.pad_sequence(captions, batch_first=True, padding_value=PAD)
    batch = make_batch(images)
    return Batch(
        **{**vars(batch), "tokens": pad(padded, (1, 0), value=BOS).unflatten(0, (images, -1))}
    )


def run(trial: Trial) -> Timed:
    """Run a trial on new processes with one core each."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "timed.json"
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        spawn(_rank, (trial, port, out), nprocs=trial.ranks)
        result = json.loads(out.read_text())
    network = Network(**result["network"]) if result["network"] else None
    work = Work(np.array(result["flops"]), np.array(result["bytes"]))
    return Timed(result["steps"], work, Processor(**result["processor"]), network)


def _rank(rank: int, trial: Trial, port: int, out: Path) -> None:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": trial.ranks, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(n) for name, n in variables.items()}}
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    group = ProcessGroup.join(60.0)
    # All ranks measure at the same time, because they share the machine's memory bandwidth.
    group.barrier()
    processor = Processor.measure(group.device, trial.rounds)
    network = Network.measure(group, trial.rounds) if trial.ranks > 1 else None
    steps, work = _steps(trial, group)
    if group.first:
        result = {
            "steps": steps,
            "flops": work.flops.tolist(),
            "bytes": work.bytes.tolist(),
            "processor": asdict(processor),
            "network": network and asdict(network),
        }
        out.write_text(json.dumps(result))
    group.leave()
    end_process(0)


def _steps(trial: Trial, group: ProcessGroup) -> tuple[list[float], Work]:
    """Seconds of steps with the trainer's own all-reduces, and the work of one step."""
    config = trial.config
    stage = cast(CrossEntropyStage, config.stages[0])
    engine = make_engine(CrossEntropy(new_model(trial.model), stage), config, stage, group)
    batches, times = [captioned_batch(trial.images)], []
    for _ in range(WARM_UP + STEPS):
        started = time.perf_counter()
        # Words, captions, lost samples, signals, and the loss of the step before.
        weight, *_ = group.sum(batches[0].token_count, 0, 0, 0, 0)
        engine.step(batches, weight, 1e-4)
        times.append(time.perf_counter() - started)
    return times[WARM_UP:], count(lambda: engine.step(batches, weight, 1e-4))
