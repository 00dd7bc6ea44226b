"""Seconds and memory until the first step, by the number of training images."""

from __future__ import annotations

import math
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.start_corpus import CAPTIONS, write_shards
from capdist.config.base import ConfigError, validate
from capdist.config.reward import RewardConfig
from capdist.config.run_config import Config
from capdist.data.dataset import check_needs, training_batches
from capdist.data.mixture import load_shards
from capdist.data.rank_plan import Ranks
from capdist.data.training_captions import TrainingCaptions
from capdist.objectives.rewards import Rewards
from capdist.reporting.table import Row, format_markdown, format_table
from shards.caption_counts import counts_name
from shards.count_captions import count_captions

#: The numbers of images, up to --images, and that to which the last two are extrapolated.
SIZES, FAR = (10**4, 10**5, 10**6), 10**8
ROUNDS = 3
#: The goal at a million images.
GOAL_IMAGES, GOAL_S, GOAL_GB = 10**6, 5, 2
XE, SCST = "start, cross entropy", "start, self-critical"
PARTS = ("manifest", "vocabulary", "order and first batch", "rewards")
CPU, MEMORY = "CPU, s", "memory, GB"
ON_DISK, COUNTING = "counts on the disk, MB", "counting once, s"


@dataclass(frozen=True)
class Figures:
    """Rows by number of images: seconds of the parts of a start, of which ``rounds`` were timed.

    ``imports``: GB of memory of a process that has read nothing.
    """

    rows: dict[int, dict[str, float]]
    imports: float
    load: float = field(default_factory=lambda: os.getloadavg()[1])

    @property
    def slopes(self) -> dict[str, float]:
        """log(figure) per log(images) between the two largest sizes; 1: proportional."""
        if len(self.rows) < 2:
            return {}
        (less, before), (more, after) = list(self.rows.items())[-2:]
        scale = math.log(more / less)
        before, after = self._above_imports(before), self._above_imports(after)
        return {
            name: math.log(after[name] / before[name]) / scale
            for name in (*PARTS, MEMORY, ON_DISK, COUNTING)
        }

    @property
    def far(self) -> dict[str, float]:
        """The figures of FAR images if the slopes stay as they are, and what they add up to."""
        most, row = list(self.rows.items())[-1]
        row = self._above_imports(row)
        far = {name: row[name] * (FAR / most) ** slope for name, slope in self.slopes.items()}
        if not far:
            return far
        far[MEMORY] += self.imports
        return far | totals(far)

    def _above_imports(self, row: dict[str, float]) -> dict[str, float]:
        return row | {MEMORY: row[MEMORY] - self.imports}

    @property
    def lines(self) -> dict[str, Row]:
        measured = {f"{images:,} images": row for images, row in self.rows.items()}
        return {**measured, "slope": self.slopes, f"{FAR:,} images, extrapolated": self.far}

    @property
    def columns(self) -> tuple[str, ...]:
        return (XE, SCST, CPU, *PARTS, MEMORY, ON_DISK, COUNTING)

    def to_json(self) -> dict[str, Any]:
        return {
            "images": {str(images): row for images, row in self.rows.items()},
            "slopes": self.slopes,
            "extrapolated": {str(FAR): self.far},
            "imports_gb": self.imports,
            "load": self.load,
        }

    def table(self) -> str:
        return format_table(self.lines, self.columns)

    def page(self, command: str) -> str:
        return (
            "# The start of training\n\n"
            "Seconds that one rank needs for what depends on the data, before its first step, and "
            "the peak of its resident memory. The shards are made for this: tiny features, "
            f"{CAPTIONS} captions per image of 8 to 14 words, {1000:,} images per shard.\n\n"
            f"{format_markdown(self.lines, self.columns)}\n\n"
            f"- **{XE}**: manifest, vocabulary, order and first batch; **{SCST}**: rewards, too.\n"
            "- **vocabulary**: reads the counts that the build wrote. **rewards**: document "
            "frequency and its hash table, and the references of validation.\n"
            f"- **{CPU}**: processor time of a self-critical start, which other programs do not "
            "lengthen.\n"
            f"- **{MEMORY}**: of the whole process, at the end of a self-critical start; "
            f"{self.imports:.2f} GB of it before anything is read.\n"
            f"- **{COUNTING}**: what a build adds, and the first start on shards of older "
            "versions; in all processors.\n"
            "- **slope**: of the logarithms, between the two largest sizes; 1 is proportional to "
            "the number of images, and memory is that above the process that has read nothing. The "
            "extrapolation assumes that the slopes stay as they are.\n\n"
            f"Goal at {GOAL_IMAGES:,} images: {GOAL_S} s and {GOAL_GB} GB. Medians of {ROUNDS} "
            f"starts, files in the page cache, on a machine of {os.cpu_count()} cores with a load "
            f"of {self.load:.1f}: if that is well above 1, other programs were running.\n\n"
            f"```\n{command}\n```\n"
        )


def measure(images: int) -> Figures:
    """Measure starts on the SIZES up to ``images``.

    Raises:
        ConfigError: if it is less than the smallest.
    """
    if images < SIZES[0]:
        raise ConfigError(f"--images: expected {SIZES[0]} or more, got {images}")
    rows, base = {}, alone(memory)
    for size in (size for size in SIZES if size <= images):
        with TemporaryDirectory() as folder:
            rows[size] = measure_size(Path(folder), size)
    return Figures(rows, base)


def measure_size(folder: Path, images: int) -> dict[str, float]:
    manifest = write_shards(folder / "shards", images)
    counts = manifest.root / counts_name("train")
    began = time.monotonic()
    count_captions(manifest, "train", counts)
    counting = time.monotonic() - began
    starts = [alone(start, manifest.root, folder / f"run-{number}") for number in range(ROUNDS)]
    row = {name: median(each[name] for each in starts) for name in starts[0]}
    return {
        **totals(row),
        **row,
        ON_DISK: counts.stat().st_size / 1e6,
        COUNTING: counting,
    }


def totals(row: dict[str, float]) -> dict[str, float]:
    """Seconds of a start, from those of its parts."""
    xe = sum(row[part] for part in PARTS[:-1])
    return {XE: xe, SCST: xe + row["rewards"]}


def alone(function: Any, *arguments: Any) -> Any:
    """The result of a function in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def start(shards: Path, run: Path) -> dict[str, float]:
    """Seconds of each part of a start as `capdist.training.run` does it, and memory in GB."""
    run.mkdir()
    config = validate(Config, _config(shards, run), "bench.py start")
    times, before_cpu = [time.monotonic()], time.process_time()

    def done() -> None:
        times.append(time.monotonic())

    manifest = load_shards(config.data)
    done()
    captions = TrainingCaptions.read(manifest, config.data)
    done()
    check_needs(manifest, "train", frozenset(), "none")
    batches = training_batches(
        manifest,
        config.data,
        config.stages[0].batch,
        captions.vocab,
        Ranks(),
        config.seed,
        reference_ids=captions.reference_ids,
    )
    next(batches.epoch(0))
    done()
    rewards = Rewards.of(config, RewardConfig(), manifest, captions.vocab)
    done()
    assert rewards.df.images
    seconds = (after - before for before, after in pairwise(times))
    return {
        **dict(zip(PARTS, seconds, strict=True)),
        CPU: time.process_time() - before_cpu,
        MEMORY: memory(),
    }


def memory() -> float:
    """Peak of this process's resident memory, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _config(shards: Path, run: Path) -> dict[str, Any]:
    batch = {"images": 64, "micro": 64}
    stage = {"objective": "xe", "epochs": 1, "batch": batch, "optimizer": {"lr": 1e-4}}
    return {
        "description": "bench.py start",
        "run": str(run),
        "data": {"shards": str(shards), "workers": 0},
        "model": {"name": "lstm"},
        "stages": [stage],
    }
