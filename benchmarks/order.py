"""The cost of the order of samples and its mixing, compared with a permutation of all samples."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import isqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.mixing import EPOCHS, Epochs
from benchmarks.timing import Timing, interleave
from capdist.config.base import ConfigError
from capdist.data.order import Ints, Order
from capdist.reporting.table import Row, format_markdown, format_table
from shards.atomic import write_json
from shards.feature_spec import FeatureSpec
from shards.index import Index, Member, SampleIndex, write_index
from shards.manifest import MANIFEST, Manifest
from shards.progress import tracked
from shards.shard import Shard

#: Images per shard, and per batch.
SHARD, BATCHES = 256, (80, 160)
#: Shares of the sources in a set that is sorted by source.
SOURCES = (0.4, 0.3, 0.2, 0.1)
#: Lanes and windows; one lane with a large window is a shuffle buffer over shuffled shards.
SETTINGS = ((64, 64), (64, 1024), (256, 16), (256, 64), (1, 4096))
#: Numbers of successive batches to average over, and of timed rounds.
STEPS, ROUNDS = (1, 16), 3
#: The parts of a start, and the target of its duration in seconds.
START, PARTS, TARGET = "start", ("manifest", "order", "indices"), 2
PERMUTATION = "permutation of all samples"
COSTS = ("ms", "fastest", "slowest", "peak MB")
MIXING = ("neighbours", "again", *(f"{g} {h}" for g in ("shard", "source") for h in STEPS))


@dataclass(frozen=True)
class Figures:
    """Costs of starting an epoch of ``samples`` samples, and the mixing of ``images`` images.

    ``timings`` and ``peaks`` (bytes) are by program, ``mixing`` by batch, order and measure;
    ``load``: load average of the last five minutes.
    """

    samples: int
    images: int
    timings: dict[str, Timing]
    peaks: dict[str, int]
    mixing: dict[int, dict[str, Row]]
    load: float

    def to_json(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "images": self.images,
            "costs": self.costs,
            "start_s": self.starts,
            "mixing": self.mixing,
            "load": self.load,
        }

    @property
    def costs(self) -> dict[str, Row]:
        """Milliseconds and peak memory of each program."""
        return {
            name: {
                "ms": 1e3 * timing.median,
                "fastest": 1e3 * timing.spread[0],
                "slowest": 1e3 * timing.spread[1],
                "peak MB": self.peaks[name] / 1e6,
            }
            for name, timing in self.timings.items()
        }

    @property
    def starts(self) -> dict[str, float]:
        """Seconds that a job takes to start, by the number of shards."""
        rows = ((name.partition(", "), timing.median) for name, timing in self.timings.items())
        return {shards: seconds for (what, _, shards), seconds in rows if what == START}

    def start_lines(self) -> Iterator[str]:
        """The time of a start and of its parts; the one with large shards has a target."""
        target = f", target less than {TARGET}"
        for shards, seconds in self.starts.items():
            parts = {part: self.timings[f"{part}, {shards}"].median for part in PARTS}
            shares = ", ".join(f"{part} {part_s:.2f}" for part, part_s in parts.items())
            yield (
                f"- `start_s` {seconds:.2f}{target}: {Order.lanes} lanes over {shards} samples "
                f"({shares})"
            )
            target = ""

    def table(self) -> str:
        parts = [format_table(rows, MIXING) for rows in self.mixing.values()]
        return "\n\n".join([format_table(self.costs, COSTS), *parts])

    def page(self, command: str) -> str:
        mixing = "\n\n".join(
            f"Batches of {batch}:\n\n{format_markdown(rows, MIXING)}"
            for batch, rows in self.mixing.items()
        )
        starts = "\n".join(self.start_lines())
        return (
            "# The order of samples\n\n"
            "[order.py](../../capdist/data/order.py) defines it; "
            "[mixing.py](../../benchmarks/mixing.py) defines the measures.\n\n"
            "## Starting an epoch\n\n"
            f"{self.samples:,} samples. **manifest**: reading it. **order**: the spans of all "
            f"{Order.lanes} lanes and the order within the first block of each, given the number "
            "of an epoch; **resumed**: the same in the middle of the epoch. **indices**: for every "
            f"lane the index of one shard, and its entries of {Order.window} samples; files are in "
            "the page cache. **start**: manifest, order and indices of a whole job; each reader "
            "opens only its own lanes. Median, fastest and slowest of "
            f"{ROUNDS} interleaved rounds, on a machine of {os.cpu_count()} cores with a load of "
            f"{self.load:.1f}: if that is well above 1, other programs were running. "
            "Memory is the peak that Python and numpy allocate.\n\n"
            f"{format_markdown(self.costs, COSTS)}\n\n"
            f"{starts}\n\n"
            "Manifest and order grow with the number of shards, indices with the samples per "
            "shard: the bytes of an index are read at once, an entry is parsed when its sample is "
            "read. Not included: the vocabulary, which `bench.py start` measures.\n\n"
            "## Mixing\n\n"
            f"{self.images:,} images in shards of {SHARD}, means of {EPOCHS} epochs. Rows are "
            f"lanes × window, by default {Order.lanes} × {Order.window}: lanes shards are open at "
            "a time, and lanes × window samples are in memory.\n\n"
            "- **neighbours**: of 10,000 pairs that are adjacent in a shard, those that share a "
            "batch.\n"
            "- **again**: of 10,000 pairs that share a batch, those that share one in the next "
            "epoch.\n"
            "- **shard h**: the variance of the mean over h successive batches of a quantity that "
            "is constant in a shard, as a multiple of that of a permutation.\n"
            "- **source h**: the same for a quantity that is constant in a source, in a set that "
            f"is stored source by source, {', '.join(f'{100 * s:.0f} %' for s in SOURCES)}.\n\n"
            f"{mixing}\n\n"
            "A batch takes its samples from all lanes. With as many lanes as samples in a batch, "
            "single batches are therefore mixed about as well as by a permutation; successive "
            "batches are similar as long as lanes stay in their shards. If a set is stored "
            "sorted, more lanes with a smaller window mix better in the same memory; they change "
            "the order. A set that is stored in random order shows no difference.\n\n"
            f"```\n{command}\n```\n"
        )


def measure(samples: int, images: int) -> Figures:
    """Measure the costs for ``samples`` samples and the mixing of ``images`` images.

    Raises:
        ConfigError: if there are too few.
    """
    if samples < 10_000:
        raise ConfigError(f"--samples: expected 10000 or more, got {samples}")
    if images < (least := STEPS[-1] * BATCHES[-1]):
        raise ConfigError(f"--images: expected {least} or more, got {images}")
    with programs(samples) as run:
        timings = interleave(run, ROUNDS)
        peaks = {name: peak(call) for name, call in run.items()}
    return Figures(samples, images, timings, peaks, mixing(images), os.getloadavg()[1])


@contextmanager
def programs(samples: int) -> Iterator[dict[str, Callable[[], Any]]]:
    """Programs for √N shards of √N samples, and for ten times as many shards of a tenth."""
    run: dict[str, Callable[[], Any]] = {}
    with TemporaryDirectory() as folder:
        for size in (isqrt(samples), isqrt(samples) // 10):
            shards = samples // size
            order = Order((size,) * shards, 1)
            root = Path(folder) / str(size)
            manifest = write_manifest(root, shards, size)
            of = f"{shards:,} shards of {size:,}"
            run[f"{START}, {of}"] = start_job(root)
            run[f"manifest, {of}"] = partial(Manifest.load, root)
            run[f"order, {of}"] = start_order(order, 0)
            run[f"order, {of}, resumed"] = start_order(order, samples // 2)
            run[f"indices, {of}"] = partial(indices, manifest)
        run[PERMUTATION] = lambda: np.random.default_rng(1).permutation(samples)
        yield run


def start_order(order: Order, consumed: int) -> Callable[[], None]:
    """A function that computes what the readers of a job need, for another epoch each time."""
    epochs = count(consumed)  # an order caches the spans of its last epoch
    return lambda: begin(order, next(epochs), consumed)


def begin(order: Order, epoch: int, consumed: int) -> None:
    """The spans of every lane, and the block that is read first."""
    for lane in range(order.lanes):
        order.lane_spans(epoch, lane)
        order.block(epoch, lane, consumed // order.lanes // order.window)


def indices(manifest: Manifest) -> list[Index]:
    """The indices of one shard per lane, with the entries of one block parsed."""
    opened = [manifest.index(shard) for shard in manifest.shards[: Order.lanes]]
    for index in opened:
        for position in range(min(Order.window, len(index))):
            index[position]
    return opened


def start_job(root: Path) -> Callable[[], list[Index]]:
    """A function that starts a job: manifest, order and indices, without any cache."""
    epochs = count()

    def start() -> list[Index]:
        manifest = Manifest.load(root)
        begin(Order(tuple(shard.samples for shard in manifest.split("train")), 2), next(epochs), 0)
        return indices(manifest)

    return start


def write_manifest(root: Path, shards: int, size: int) -> Manifest:
    """Write a manifest of ``shards`` shards and the indices that are read; the tars are empty."""
    root.mkdir()
    names = [f"train-{number:05d}.tar" for number in range(shards)]
    made = tuple(Shard(name, "train", size, 5 * size, 10**8, "0" * 64) for name in names)
    manifest = Manifest(root, "made", FeatureSpec("made", 2048, 36), made)
    write_json(root / MANIFEST, manifest.to_json())
    members = ("json", "regions.npy", "boxes.npy", "classes.npy", "concepts.json")
    entries = [
        SampleIndex(
            f"{number:012d}",
            number * 10**5,
            {s: Member(number * 10**5 + i, 10**4, number) for i, s in enumerate(members)},
        )
        for number in range(size)
    ]
    for name in names[: Order.lanes]:
        (root / name).touch()
        write_index(root / name, entries)
    return manifest


def peak(run: Callable[[], Any]) -> int:
    """Peak of the allocated bytes."""
    tracemalloc.start()
    run()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak_bytes


def mixing(images: int) -> dict[int, dict[str, Row]]:
    """Every measure of every order, by batch size."""
    sizes = (SHARD,) * (images // SHARD) + (images % SHARD,)
    bounds = np.cumsum(SOURCES)[:-1] * images
    source = np.searchsorted(bounds, np.arange(images), side="right").astype(np.int64)
    orders = {
        f"{lanes} × {window}": Epochs.of(Order(sizes, 1, lanes, window), 1)
        for lanes, window in SETTINGS
    }
    orders["as stored"] = Epochs.of(Order(sizes, 1, lanes=1, shuffle=False), 1)
    orders[PERMUTATION] = Epochs.permuted(Order(sizes, 1), 1)
    return {
        batch: {
            name: measures(Epochs(epochs.rows, epochs.shard, batch), source)
            for name, epochs in orders.items()
        }
        for batch in tracked(BATCHES, len(BATCHES), title="measuring orders", unit="batch size")
    }


def measures(epochs: Epochs, source: Ints) -> Row:
    """The measures of one order; pairs are counted per 10,000."""
    groups = {"shard": epochs.shard, "source": source}
    return {
        "neighbours": 1e4 * epochs.neighbours,
        "again": 1e4 * epochs.again,
        **{
            f"{name} {steps}": epochs.variance(group, steps)
            for name, group in groups.items()
            for steps in STEPS
        },
    }
