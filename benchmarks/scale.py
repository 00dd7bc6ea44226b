"""The cost of a step by the model of `cost.py`: beside steps taken here, and for 1,024 GPUs."""

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
from benchmarks.load_corpus import MadeUp
from benchmarks.reward import make_reward
from benchmarks.scale_check import Timed, Trial, run
from benchmarks.scale_program import OWN, SAMPLES, Program
from benchmarks.timing import seconds
from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.reporting.table import format_markdown, format_table
from capdist.workers.reward_pool import open_pool
from shards.writer import write

Rows = dict[str, dict[str, float | None]]

CPU = torch.device("cpu")
#: COCO's training images, and bytes of an image's regions.
IMAGES, BYTES = 113_287, REGIONS * FEATURES * 2
#: Images of the global batch that is cut, and of the largest micro-batch of it.
WHOLE, LARGEST = 1_024, 64
RANKS = (1, 2, 4, 8, 16, 64, 256, 1_024)
#: Images of a rank in the steps that are taken.
TRIED = (4, 8, 16)
#: All-reduces of a few numbers in each step: lost samples, words, the loss, captions and signals.
AGREED = 4
#: Assumed, not measured. An H100 SXM's data sheet has 989 Tflop/s in bf16 and 3.35 TB/s: half and
#: four fifths of them. An operation launched by Python and torch: 8 µs. Eight GPUs to a node, by
#: NVLink with 450 GB/s each way; 400 Gbit/s for each of them between nodes.
GPU = Processor(launch=8e-6, flops=0.5 * 989e12, bytes=0.8 * 3.35e12)
LINKS = Network(latency=8e-6, inside=450e9, across=50e9, node=8)
#: A rank's steps scatter by this share; the slowest of W ranks is √(2 ln W) of it late.
SCATTER = 0.02


@dataclass(frozen=True)
class Step:
    """Seconds of a step's parts; nothing is taken to overlap."""

    compute: float
    late: float
    reduce: float
    agree: float
    wait: float = 0.0

    @property
    def total(self) -> float:
        """One after the other."""
        return self.compute + self.late + self.reduce + self.agree + self.wait

    def row(self, images: int, ranks: int, before: float | None) -> dict[str, float | None]:
        """Of a table, in which ``before`` is the images/s of one GPU."""
        speed = images / self.total
        return {
            "batch": images,
            "step ms": 1e3 * self.total,
            "compute ms": 1e3 * self.compute,
            "late ms": 1e3 * self.late,
            "reduce ms": 1e3 * self.reduce,
            "agree ms": 1e3 * self.agree,
            "captions/s": REFERENCES * speed,
            "efficiency %": 100 * speed / (ranks * (before or speed)),
            "steps an epoch": math.ceil(IMAGES / images),
            "epoch s": IMAGES / speed,
            "read GB/s a node": min(ranks, LINKS.node) / ranks * speed * BYTES / 1e9,
        }


def on_gpus(work: Work, parameters: int, ranks: int, wait: float = 0.0) -> Step:
    """A step in bf16 on so many GPUs, DeepSpeed with ZeRO 1."""
    compute = GPU.seconds(work)
    if ranks == 1:
        return Step(compute, 0.0, 0.0, 0.0, wait)
    late = compute * SCATTER * math.sqrt(2 * math.log(ranks))
    agree = AGREED * LINKS.all_reduce(8, ranks)
    return Step(compute, late, LINKS.all_reduce(2 * parameters, ranks), agree, wait)


def as_modelled(trial: Trial, timed: Timed, parameters: list[int]) -> float:
    """Seconds of a step that was taken here, by what its processor and network can do."""
    total = timed.processor.seconds(timed.work)
    if timed.network is None:
        return total
    # The plain twin sums its gradients tensor by tensor.
    whole = parameters if trial.engine == "torch" else [sum(parameters)]
    sizes = [4 * numbers for numbers in whole] + AGREED * [8]
    return total + sum(timed.network.all_reduce(size, trial.ranks) for size in sizes)


@dataclass(frozen=True)
class Rates:
    """Measured here: images/s that a core reads, and seconds of a call that rewards captions.

    ``reward`` is until an actor's answer is back, ``scoring`` the time of its core.
    """

    images: float
    reward: float
    scoring: float

    @classmethod
    def measure(cls) -> Rates:
        """The mapped reader on a hot page cache; one actor, and a rank's captions of a step."""
        with tempfile.TemporaryDirectory() as folder:
            manifest = write(MadeUp(WHOLE), Path(folder), samples_per_shard=64, workers=1)
            epochs = reader(manifest, "mapped")
            reading = seconds(lambda: list(epochs.epoch()), CPU)
        corpus = make_corpus(OWN * SAMPLES)
        score = make_reward(corpus)
        with open_pool(score, RewardConfig(actors=1), RayConfig(), print) as pool:
            reward = seconds(lambda: pool.submit(corpus.packed).result(), CPU)
        return cls(WHOLE / reading, reward, seconds(lambda: score(corpus.packed), CPU))


@dataclass(frozen=True)
class Figures:
    """Steps that were taken, and the tables of the model."""

    model: str
    program: Program
    trials: list[tuple[Trial, Timed]]
    rates: Rates
    load: float

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "model": self.model,
            "taken": self.taken,
            "weak": self.weak,
            "strong": self.strong,
            "self-critical": self.critical,
            "rates": asdict(self.rates),
            "machine_load": self.load,
        }

    @property
    def taken(self) -> Rows:
        """Steps taken here beside the model's."""
        rows: Rows = {}
        for trial, timed in self.trials:
            step, modelled = timed.step, as_modelled(trial, timed, self.program.parameters)
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
        """`OWN` images on every GPU."""
        work = self.program.micro[OWN] + self.program.update
        return self._rows(lambda ranks: (OWN * ranks, on_gpus(work, self._size, ranks)))

    @property
    def strong(self) -> Rows:
        """A global batch of `WHOLE` images."""

        def step(ranks: int) -> tuple[int, Step]:
            own = WHOLE // ranks
            work = self.program.update
            for _ in range(max(1, own // LARGEST)):
                work = self.program.micro[min(own, LARGEST)] + work
            return WHOLE, on_gpus(work, self._size, ranks)

        return self._rows(step)

    @property
    def critical(self) -> Rows:
        """Self-critical training of `OWN` images on every GPU, an actor for each."""
        program = self.program
        work = program.draw + program.learn + program.update
        # Rewards come while the gradient's forward half is computed: a third of the work.
        wait = max(0.0, self.rates.reward - GPU.seconds(program.learn) / 3)
        rows = self._rows(lambda ranks: (OWN * ranks, on_gpus(work, self._size, ranks, wait)))
        for row in rows.values():
            row["draw ms"] = 1e3 * GPU.seconds(program.draw)
            row["rewards ms"] = 1e3 * self.rates.reward
            row["wait ms"] = 1e3 * wait
            row["actor's core %"] = 100 * 1e3 * self.rates.scoring / float(row["step ms"] or 1)
        return rows

    def _rows(self, step: Callable[[int], tuple[int, Step]]) -> Rows:
        alone, first = step(1)
        made = {ranks: step(ranks) for ranks in RANKS}
        return {
            f"{ranks:,} GPU{'s' * (ranks > 1)}": found.row(images, ranks, alone / first.total)
            for ranks, (images, found) in made.items()
        }

    @property
    def _size(self) -> int:
        return sum(self.program.parameters)

    def table(self) -> str:
        """For a terminal."""
        tables = (self.taken, self.weak, self.strong, self.critical)
        return "\n\n".join(format_table(rows, _columns(rows)) for rows in tables)

    def page(self, command: str) -> str:
        """As Markdown, with the command that measures it."""
        taken, weak, strong, critical = (
            format_markdown(rows, _columns(rows))
            for rows in (self.taken, self.weak, self.strong, self.critical)
        )
        own, rates = self.program.micro[OWN], self.rates
        operations = len(own.flops) + len(self.program.update.flops)
        return (
            f"# Scaling {self.model}, by a model of its cost\n\n"
            "The formula, and what follows from it: [scale.md](../scale.md). COCO's sizes, random "
            f"weights; {self._size / 1e6:.1f} M parameters. {OWN} images with {REFERENCES} "
            f"captions each are {operations} operations and {own.flops.sum() / 1e9:.0f} Gflop with "
            f"their update; drawing and learning {SAMPLES} captions of each is "
            f"{len(self.program.draw.flops) + len(self.program.learn.flops)} operations.\n\n"
            "## Steps that were taken\n\n"
            f"Cross entropy in fp32 by real engines, ranks × images of each, on a machine of "
            f"{os.cpu_count()} cores, a core for a rank, with a load of {self.load:.1f} before. "
            "The model knows the counted operations, and what each process measured before its "
            "steps: the flops of a product, the bytes of a copy, the launch of an operation, and "
            "an all-reduce of one number and of many, all ranks at once.\n\n"
            f"{taken}\n\n"
            f"One core reads {rates.images:,.0f} images/s (`mapped`, page cache hot). The rewards "
            f"of {OWN * SAMPLES} captions are back after {1e3 * rates.reward:.1f} ms, of which "
            f"the actor's core scores for {1e3 * rates.scoring:.2f} ms.\n\n"
            "## What the model says of GPUs\n\n"
            f"**Not measured.** Assumed are {GPU.flops / 1e12:.0f} Tflop/s in bf16, "
            f"{GPU.bytes / 1e12:.1f} TB/s, {1e6 * GPU.launch:.0f} µs a launch; {LINKS.node} GPUs "
            f"to a node, {LINKS.inside / 1e9:.0f} GB/s in it and {LINKS.across / 1e9:.0f} GB/s a "
            f"GPU between nodes, {1e6 * LINKS.latency:.0f} µs a message; steps that scatter by "
            f"{100 * SCATTER:.0f} %. DeepSpeed with ZeRO 1, bf16, nothing "
            "overlapping; bytes are counted as in fp32.\n\n"
            f"### {OWN} images on every GPU\n\n{weak}\n\n"
            f"### {WHOLE:,} images in all\n\nMicro-batches of {LARGEST} images at most.\n\n"
            f"{strong}\n\n"
            f"### Self-critical, {OWN} images on every GPU\n\n{SAMPLES} captions drawn of each; "
            f"one actor for each GPU, at the speed of this machine's core.\n\n{critical}\n\n"
            f"```\n{command}\n```\n"
        )


def _columns(rows: Rows) -> list[str]:
    return list(next(iter(rows.values())))


def measure(model: str) -> Figures:
    """Everything.

    Raises:
        ConfigError: if there is no such model.
    """
    load = os.getloadavg()[1]
    cut = {min(WHOLE // ranks, LARGEST) for ranks in RANKS}
    program = Program.of(model, sorted({*cut, OWN}))
    trials = [Trial(model, "torch", 1, images) for images in TRIED]
    pairs = 2 if not torch.cuda.is_available() else min(2, torch.cuda.device_count())
    trials += [Trial(model, "torch", ranks, 8) for ranks in range(2, pairs + 1)]
    if find_spec("deepspeed"):
        trials += [Trial(model, "deepspeed", ranks, 8) for ranks in range(1, pairs + 1)]
    taken = [(trial, run(trial)) for trial in trials]
    return Figures(model, program, taken, Rates.measure(), load)
