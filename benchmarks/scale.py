"""The cost model of `cost.py`, compared with steps on this machine, and for up to 1,024 GPUs."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.corpus import REFERENCES, make_corpus
from benchmarks.cost import Network, Processor, Work
from benchmarks.decode import FEATURES, REGIONS
from benchmarks.load import reader
from benchmarks.load_corpus import SyntheticSource
from benchmarks.reward import make_reward
from benchmarks.scale_check import Timed, Trial, run
from benchmarks.scale_program import IMAGES_PER_RANK, SAMPLES, Program
from benchmarks.timing import seconds
from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.reporting.table import format_markdown, format_table
from capdist.workers.reward_pool import open_pool
from shards.progress import tracked
from shards.writer import write

Rows = dict[str, dict[str, float | None]]

CPU = torch.device("cpu")
#: COCO's training images, and bytes of the regions of one image.
IMAGES, BYTES = 113_287, REGIONS * FEATURES * 2
#: Images of the global batch in strong scaling, and of its largest micro-batch.
GLOBAL_BATCH, LARGEST = 1_024, 64
RANKS = (1, 2, 4, 8, 16, 64, 256, 1_024)
#: Images per rank in the timed steps.
TRIAL_IMAGES = (4, 8, 16)
#: Assumed, not measured: one half of the 989 Tflop/s in bf16 and four fifths of the 3.35 TB/s in
#: the data sheet of an H100 SXM; 8 µs to launch an operation from Python; eight GPUs per node with
#: 450 GB/s NVLink each way, and 400 Gbit/s for each of them between nodes.
GPU = Processor(launch=8e-6, flops=0.5 * 989e12, bytes=0.8 * 3.35e12)
LINKS = Network(latency=8e-6, inside=450e9, across=50e9, node=8)
#: Relative standard deviation of the step time; the slowest of W ranks is √(2 ln W) of it late.
JITTER = 0.02


@dataclass(frozen=True)
class Step:
    """Seconds of the parts of a step, assuming no overlap; ``agree``: of a small all-reduce."""

    compute: float
    late: float
    reduce: float
    agree: float
    wait: float = 0.0

    @property
    def total(self) -> float:
        return self.compute + self.late + self.reduce + self.agree + self.wait

    def row(self, images: int, ranks: int, one_gpu: float) -> dict[str, float | None]:
        """A row of a table; ``one_gpu`` is the speed of one GPU in images/s."""
        speed = images / self.total
        return {
            "batch": images,
            "step ms": 1e3 * self.total,
            "compute ms": 1e3 * self.compute,
            "late ms": 1e3 * self.late,
            "reduce ms": 1e3 * self.reduce,
            "agree ms": 1e3 * self.agree,
            "captions/s": REFERENCES * speed,
            "efficiency %": 100 * speed / (ranks * one_gpu),
            "steps an epoch": math.ceil(IMAGES / images),
            "epoch s": IMAGES / speed,
            "read GB/s a node": min(ranks, LINKS.node) / ranks * speed * BYTES / 1e9,
        }


def on_gpus(work: Work, parameters: int, ranks: int, wait: float = 0.0) -> Step:
    """A step in bf16 on ``ranks`` GPUs by DeepSpeed with ZeRO 1."""
    compute = GPU.seconds(work)
    if ranks == 1:
        return Step(compute, 0.0, 0.0, 0.0, wait)
    late = compute * JITTER * math.sqrt(2 * math.log(ranks))
    reduce, agree = (LINKS.all_reduce(size, ranks) for size in (2 * parameters, 8))
    return Step(compute, late, reduce, agree, wait)


def modelled_seconds(trial: Trial, timed: Timed, parameters: list[int]) -> float:
    """The cost model's time of a step on this machine, from its measured hardware."""
    total = timed.processor.seconds(timed.work)
    if timed.network is None:
        return total
    sizes = (4 * sum(parameters), 8)
    return total + sum(timed.network.all_reduce(size, trial.ranks) for size in sizes)


@dataclass(frozen=True)
class Rates:
    """Measured on this machine.

    ``images``: images/s that one core reads. ``reward``: seconds from submitting the captions of a
    step to an actor until its rewards arrive. ``scoring``: the part of them spent on scoring.
    """

    images: float
    reward: float
    scoring: float

    @classmethod
    def measure(cls) -> Rates:
        """Measure the mapped reader on cached files, and one actor on the captions of a rank."""
        with tempfile.TemporaryDirectory() as folder:
            manifest = write(
                SyntheticSource(GLOBAL_BATCH), Path(folder), samples_per_shard=64, workers=1
            )
            epochs = reader(manifest, "mapped")
            reading = seconds(lambda: list(epochs.epoch()), CPU)
        corpus = make_corpus(IMAGES_PER_RANK * SAMPLES)
        score, call = make_reward(corpus), (corpus.packed, corpus.packed_references)
        with open_pool(score, RewardConfig(actors=1), RayConfig(), print) as pool:
            reward = seconds(lambda: pool.submit(*call).result(), CPU)
        return cls(GLOBAL_BATCH / reading, reward, seconds(lambda: score(*call), CPU))


@dataclass(frozen=True)
class Figures:
    """Timed steps, and the tables of the cost model."""

    model: str
    program: Program
    trials: list[tuple[Trial, Timed]]
    rates: Rates
    load: float

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "measured": self.measured,
            "weak": self.weak,
            "strong": self.strong,
            "self-critical": self.critical,
            "rates": asdict(self.rates),
            "machine_load": self.load,
        }

    @property
    def measured(self) -> Rows:
        """Timed steps compared with the cost model."""
        rows: Rows = {}
        for trial, timed in self.trials:
            step, modelled = timed.step, modelled_seconds(trial, timed, self.program.parameters)
            network = timed.network
            rows[f"{trial.engine}, {trial.ranks} × {trial.images} images"] = {
                "step ms": 1e3 * step,
                "model ms": 1e3 * modelled,
                "off %": 100 * (modelled / step - 1),
                "operations": len(timed.work.flops),
                "Gflop/s": timed.processor.flops / 1e9,
                "GB/s": timed.processor.bytes / 1e9,
                "launch µs": 1e6 * timed.processor.launch,
                "link GB/s": network.inside / 1e9 if network else None,
                "latency µs": 1e6 * network.latency if network else None,
            }
        return rows

    @property
    def weak(self) -> Rows:
        """Weak scaling: `IMAGES_PER_RANK` images on every GPU."""
        work = self.program.micro[IMAGES_PER_RANK] + self.program.update
        return self._rows(lambda ranks: (IMAGES_PER_RANK * ranks, on_gpus(work, self._size, ranks)))

    @property
    def strong(self) -> Rows:
        """Strong scaling: a global batch of `GLOBAL_BATCH` images."""

        def step(ranks: int) -> tuple[int, Step]:
            images = GLOBAL_BATCH // ranks
            work = self.program.update
            for _ in range(max(1, images // LARGEST)):
                work = self.program.micro[min(images, LARGEST)] + work
            return GLOBAL_BATCH, on_gpus(work, self._size, ranks)

        return self._rows(step)

    @property
    def critical(self) -> Rows:
        """Self-critical training on `IMAGES_PER_RANK` images per GPU, with one actor per GPU."""
        program = self.program
        work = program.sample + program.learn + program.update
        # The actor scores during the forward pass, a third of the work of the gradient.
        wait = max(0.0, self.rates.reward - GPU.seconds(program.learn) / 3)
        rows = self._rows(
            lambda ranks: (IMAGES_PER_RANK * ranks, on_gpus(work, self._size, ranks, wait))
        )
        for row in rows.values():
            row["sample ms"] = 1e3 * GPU.seconds(program.sample)
            row["rewards ms"] = 1e3 * self.rates.reward
            row["wait ms"] = 1e3 * wait
            row["actor's core %"] = 100 * 1e3 * self.rates.scoring / float(row["step ms"] or 1)
        return rows

    def _rows(self, step: Callable[[int], tuple[int, Step]]) -> Rows:
        steps = {ranks: step(ranks) for ranks in RANKS}
        images, one = steps[1]
        one_gpu = images / one.total
        return {
            f"{ranks:,} GPU{'s' * (ranks > 1)}": each.row(batch, ranks, one_gpu)
            for ranks, (batch, each) in steps.items()
        }

    @property
    def _size(self) -> int:
        return sum(self.program.parameters)

    def table(self) -> str:
        tables = (self.measured, self.weak, self.strong, self.critical)
        return "\n\n".join(format_table(rows, _columns(rows)) for rows in tables)

    def page(self, command: str) -> str:
        measured, weak, strong, critical = (
            format_markdown(rows, _columns(rows))
            for rows in (self.measured, self.weak, self.strong, self.critical)
        )
        micro, rates = self.program.micro[IMAGES_PER_RANK], self.rates
        operations = len(micro.flops) + len(self.program.update.flops)
        return (
            f"# Scaling of {self.model} by a cost model\n\n"
            "Formula and conclusions: [scale.md](../scale.md). COCO's sizes, random weights; "
            f"{self._size / 1e6:.1f} M parameters. {IMAGES_PER_RANK} images with {REFERENCES} "
            f"captions each are {operations} operations and {micro.flops.sum() / 1e9:.0f} Gflop "
            f"with their update; sampling {SAMPLES} captions of each and learning from them is "
            f"{len(self.program.sample.flops) + len(self.program.learn.flops)} operations.\n\n"
            "## Timed steps\n\n"
            "Cross entropy in fp32 by real engines, ranks × images per rank, on a machine of "
            f"{os.cpu_count()} cores with one core per rank and a load of {self.load:.1f} before. "
            "The model uses the counted operations and what each process measured before its "
            "steps: the flops of a product, the bytes of a copy, the launch of an operation, and "
            "an all-reduce of one number and of many, on all ranks at the same time.\n\n"
            f"{measured}\n\n"
            f"One core reads {rates.images:,.0f} images/s (`mapped`, page cache hot). The rewards "
            f"of {IMAGES_PER_RANK * SAMPLES} captions arrive after {1e3 * rates.reward:.1f} ms, of "
            f"which scoring takes {1e3 * rates.scoring:.2f} ms.\n\n"
            "## Predictions for GPUs\n\n"
            f"**Not measured.** Assumptions: {GPU.flops / 1e12:.0f} Tflop/s in bf16, "
            f"{GPU.bytes / 1e12:.1f} TB/s, {1e6 * GPU.launch:.0f} µs per launch; {LINKS.node} GPUs "
            f"per node, {LINKS.inside / 1e9:.0f} GB/s within it and {LINKS.across / 1e9:.0f} GB/s "
            f"per GPU between nodes, {1e6 * LINKS.latency:.0f} µs per message; step times with a "
            f"standard deviation of {100 * JITTER:.0f} %. DeepSpeed with ZeRO 1, bf16, no overlap; "
            "bytes are counted as in fp32.\n\n"
            f"### {IMAGES_PER_RANK} images on every GPU\n\n{weak}\n\n"
            f"### {GLOBAL_BATCH:,} images in total\n\n"
            f"Micro-batches of at most {LARGEST} images.\n\n{strong}\n\n"
            f"### Self-critical, {IMAGES_PER_RANK} images on every GPU\n\n"
            f"{SAMPLES} captions sampled of each; one actor per GPU, as fast as a core of this "
            f"machine.\n\n{critical}\n\n"
            f"```\n{command}\n```\n"
        )


def _columns(rows: Rows) -> list[str]:
    return list(next(iter(rows.values())))


def measure(model: str) -> Figures:
    """Time steps on this machine and evaluate the cost model.

    Raises:
        ConfigError: if there is no such model.
    """
    load = os.getloadavg()[1]
    sizes = {min(GLOBAL_BATCH // ranks, LARGEST) for ranks in RANKS}
    program = Program.of(model, sorted({*sizes, IMAGES_PER_RANK}))
    trials = [Trial(model, "torch", 1, images) for images in TRIAL_IMAGES]
    most = 2 if not torch.cuda.is_available() else min(2, torch.cuda.device_count())
    trials += [Trial(model, "torch", ranks, 8) for ranks in range(2, most + 1)]
    if find_spec("deepspeed"):
        trials += [Trial(model, "deepspeed", ranks, 8) for ranks in range(1, most + 1)]
    running = tracked(trials, len(trials), title="timing steps", unit="trial")
    timed = [(trial, run(trial)) for trial in running]
    return Figures(model, program, timed, Rates.measure(), load)
