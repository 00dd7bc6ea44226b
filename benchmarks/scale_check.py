"""Steps of real engines on processes of this machine, timed, for `cost.py` to be held against."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import pad

from benchmarks.corpus import make_corpus
from benchmarks.cost import Network, Processor, Work, count
from benchmarks.decode import CLASSES, FEATURES, VOCABULARY, make_batch
from capdist.batch import Batch
from capdist.config.run_config import Config, parse_config
from capdist.distributed.process_group import ProcessGroup, end_process
from capdist.engines.factory import make_engine
from capdist.models.base import CaptionModel, Dims, build
from capdist.objectives.cross_entropy import CrossEntropy, CrossEntropyStage
from capdist.vocab import BOS, PAD

WARM, STEPS = 2, 7


@dataclass(frozen=True)
class Trial:
    """Training steps of cross entropy: ``images`` are those of each rank, in one micro-batch."""

    model: str
    engine: str
    ranks: int
    images: int

    @property
    def config(self) -> Config:
        """Of a run that takes them."""
        stage = {
            "objective": "xe",
            "epochs": 1,
            "batch": {"images": self.images * self.ranks, "micro": self.images},
            "optimizer": {"lr": 1e-4},
        }
        found = {
            "description": "timed",
            "run": "",
            "engine": self.engine,
            "data": {"shards": ""},
            "model": {"name": self.model},
            "stages": [stage],
            "deepspeed": {"zero_optimization": {"stage": 1}},
        }
        return parse_config(found, "bench.py scale")


@dataclass(frozen=True)
class Timed:
    """Seconds of a trial's steps on its first rank, and what it computed, by and over what."""

    steps: list[float]
    work: Work
    processor: Processor
    network: Network | None

    @property
    def step(self) -> float:
        """The median."""
        return median(self.steps)


def new_model(name: str) -> CaptionModel[Any]:
    """A registered model at COCO's sizes, the same every time.

    Raises:
        ConfigError: if there is no such model.
    """
    torch.manual_seed(1)
    return build({"name": name}, Dims(FEATURES, VOCABULARY, CLASSES), "--model")


def captioned(images: int) -> Batch:
    """Random images with five made-up captions each, as long as COCO's."""
    references = make_corpus(images).references
    captions = [torch.tensor(caption) for group in references.values() for caption in group]
    padded = torch.nn.utils.rnn.pad_sequence(captions, batch_first=True, padding_value=PAD)
    batch = make_batch(images)
    return Batch(
        **{**vars(batch), "tokens": pad(padded, (1, 0), value=BOS).unflatten(0, (images, -1))}
    )


def run(trial: Trial) -> Timed:
    """Start the ranks, one core each, and time them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "timed.json"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        spawn(_rank, (trial, port, out), nprocs=trial.ranks)
        found = json.loads(out.read_text())
    network = Network(**found["network"]) if found["network"] else None
    work = Work(np.array(found["flops"]), np.array(found["bytes"]))
    return Timed(found["steps"], work, Processor(**found["processor"]), network)


def _rank(rank: int, trial: Trial, port: int, out: Path) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": trial.ranks, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(n) for name, n in place.items()}}
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    job = ProcessGroup.join(60.0)
    # All ranks at once: they share the machine's memory.
    job.barrier()
    processor = Processor.measure(job.device)
    network = Network.measure(job) if trial.ranks > 1 else None
    steps, work = _steps(trial, job)
    if job.first:
        found = {
            "steps": steps,
            "flops": work.flops.tolist(),
            "bytes": work.bytes.tolist(),
            "processor": asdict(processor),
            "network": network and asdict(network),
        }
        out.write_text(json.dumps(found))
    job.leave()
    end_process(0)


def _steps(trial: Trial, job: ProcessGroup) -> tuple[list[float], Work]:
    """Seconds of steps as the trainer takes them, and what one computes."""
    config = trial.config
    (stage,) = config.stages
    assert isinstance(stage, CrossEntropyStage)
    engine = make_engine(CrossEntropy(new_model(trial.model), stage), config, stage, job)
    batches, times = [captioned(trial.images)], []
    for _ in range(WARM + STEPS):
        started = time.perf_counter()
        job.sum(0)  # lost samples
        engine.step(batches, 1e-4)
        job.sum(0, 0)  # captions and signals
        times.append(time.perf_counter() - started)
    return times[WARM:], count(lambda: engine.step(batches, 1e-4))
