"""What the order of samples costs, and how well it mixes, beside a permutation of all samples."""

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
from shards.manifest import MANIFEST, Manifest, Shard

#: Images of a shard, and of batches as papers have them.
SHARD, BATCHES = 256, (80, 160)
#: Shares of the sources that a set may be sorted by.
SOURCES = (0.4, 0.3, 0.2, 0.1)
#: Lanes and windows; one lane with a large window is a shuffle buffer behind shuffled shards.
SETTINGS = ((64, 64), (64, 1024), (256, 16), (256, 64), (1, 4096))
#: Successive batches whose mean is looked at, rounds that are timed.
STEPS, ROUNDS = (1, 16), 3
#: What a start is made of, and the seconds that it may take.
START, PARTS, WANTED = "start", ("manifest", "order", "indices"), 2
PERMUTATION = "permutation of all samples"
COSTS = ("ms", "fastest", "slowest", "peak MB")
MIXING = ("neighbours", "again", *(f"{g} {h}" for g in ("shard", "source") for h in STEPS))


@dataclass(frozen=True)
class Figures:
    """What was measured.

    ``samples`` that an epoch starts with, ``images`` that are mixed; ``timings`` and ``peaks``
    (bytes) by contestant; ``mixing`` by batch, order and measure; ``load``: programs that ran on
    average in the last five minutes, this one among them.
    """

    samples: int
    images: int
    timings: dict[str, Timing]
    peaks: dict[str, int]
    mixing: dict[int, dict[str, Row]]
    load: float

    def to_json(self) -> dict[str, Any]:
        """All figures."""
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
        """Milliseconds and memory of each contestant."""
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
        """Seconds that a job takes to start, by its shards."""
        rows = ((name.partition(", "), timing.median) for name, timing in self.timings.items())
        return {shards: seconds for (what, _, shards), seconds in rows if what == START}

    def sums(self) -> Iterator[str]:
        """What a start takes, and which parts of it; that over large shards has a limit."""
        wanted = f", wanted less than {WANTED}"
        for shards, seconds in self.starts.items():
            found = {part: self.timings[f"{part}, {shards}"].median for part in PARTS}
            shares = ", ".join(f"{part} {part_s:.2f}" for part, part_s in found.items())
            yield (
                f"- `start_s` {seconds:.2f}{wanted}: {Order.lanes} lanes over {shards} samples "
                f"({shares})"
            )
            wanted = ""

    def table(self) -> str:
        """For a terminal."""
        parts = [format_table(rows, MIXING) for rows in self.mixing.values()]
        return "\n\n".join([format_table(self.costs, COSTS), *parts])

    def page(self, command: str) -> str:
        """As Markdown, with what is counted and the command that measures it."""
        mixing = "\n\n".join(
            f"Batches of {batch}:\n\n{format_markdown(rows, MIXING)}"
            for batch, rows in self.mixing.items()
        )
        sums = "\n".join(self.sums())
        return (
            "# The order of samples\n\n"
            "[order.py](../../capdist/data/order.py) defines it; "
            "[mixing.py](../../benchmarks/mixing.py) defines the measures.\n\n"
            "## Starting an epoch\n\n"
            f"{self.samples:,} samples. **manifest**: reading it. **order**: the pieces of all "
            f"{Order.lanes} lanes and the order within a first block of each, from an epoch's "
            "number on; **resumed**: the same in the middle of the epoch. **indices**: for every "
            f"lane the index of a shard, kept, and its entries of {Order.window} samples; files "
            "are in the page cache. **start**: manifest, order and indices of a whole job, of "
            "which a reader opens its own lanes only. Median, fastest and slowest of "
            f"{ROUNDS} rounds in which all took turns, on a machine of {os.cpu_count()} cores with "
            f"a load of {self.load:.1f}: if that is well above 1, other programs ran beside them. "
            "Memory is the peak of what Python and numpy allocate.\n\n"
            f"{format_markdown(self.costs, COSTS)}\n\n"
            f"{sums}\n\n"
            "Manifest and order grow with the number of shards, indices with the samples of "
            "one: their bytes are read, an entry is parsed when its sample is read. Not in it: "
            "training counts the words of all its captions first, which reads one member of "
            "every sample.\n\n"
            "## Mixing\n\n"
            f"{self.images:,} images in shards of {SHARD}, means of {EPOCHS} epochs. Rows are "
            f"lanes × window, {Order.lanes} × {Order.window} by "
            "default: lanes are the shards that are open at a time, lanes × window the samples "
            "in memory.\n\n"
            "- **neighbours**: of 10,000 pairs that stand side by side in a shard, those that "
            "share a batch.\n"
            "- **again**: of 10,000 pairs that share a batch, those that share one in the next "
            "epoch, too.\n"
            "- **shard h**: the variance of the mean over h successive batches of a quantity that "
            "is constant in a shard, as a multiple of a permutation's.\n"
            "- **source h**: the same of a quantity that is constant in a source, of a set that "
            f"is stored source by source, {', '.join(f'{100 * s:.0f} %' for s in SOURCES)}.\n\n"
            f"{mixing}\n\n"
            "A batch takes its samples from all lanes. So single batches are mixed about as well "
            "as by a permutation where there are as many lanes as samples of a batch; successive "
            "batches are alike as long as lanes stay in their shards. Where a set is stored "
            "sorted, more lanes with a smaller window mix better in the same memory; the order "
            "changes with them. In a set that is stored in random order nothing of this shows.\n\n"
            f"```\n{command}\n```\n"
        )


def measure(samples: int, images: int) -> Figures:
    """Costs at so many samples, and the mixing of so many images.

    Raises:
        ConfigError: if they are too few.
    """
    if samples < 10_000:
        raise ConfigError(f"--samples: expected 10000 or more, got {samples}")
    if images < (least := STEPS[-1] * BATCHES[-1]):
        raise ConfigError(f"--images: expected {least} or more, got {images}")
    with contestants(samples) as run:
        timings = interleave(run, ROUNDS)
        peaks = {name: peak(start) for name, start in run.items()}
    return Figures(samples, images, timings, peaks, mixing(images), os.getloadavg()[1])


@contextmanager
def contestants(samples: int) -> Iterator[dict[str, Callable[[], Any]]]:
    """The order of as many shards as they have samples, of ten times as many, and what it reads."""
    run: dict[str, Callable[[], Any]] = {}
    with TemporaryDirectory() as folder:
        for size in (isqrt(samples), isqrt(samples) // 10):
            shards = samples // size
            order = Order((size,) * shards, 1)
            root = Path(folder) / str(size)
            manifest = write_manifest(root, shards, size)
            of = f"{shards:,} shards of {size:,}"
            run[f"{START}, {of}"] = job(root)
            run[f"manifest, {of}"] = partial(Manifest.load, root)
            run[f"order, {of}"] = starter(order, 0)
            run[f"order, {of}, resumed"] = starter(order, samples // 2)
            run[f"indices, {of}"] = partial(indices, manifest)
        run[PERMUTATION] = lambda: np.random.default_rng(1).permutation(samples)
        yield run


def starter(order: Order, consumed: int) -> Callable[[], None]:
    """The order as all readers of a job ask for it, every time in an epoch of its own."""
    epochs = count(consumed)  # an order keeps the pieces of its last epoch
    return lambda: begin(order, next(epochs), consumed)


def begin(order: Order, epoch: int, consumed: int) -> None:
    """Every lane's pieces, and the block that is read first."""
    for lane in range(order.lanes):
        order.lane_spans(epoch, lane)
        order.block(epoch, lane, consumed // order.lanes // order.window)


def indices(manifest: Manifest) -> list[Index]:
    """As many as there are lanes, of each of which the entries of a block are parsed."""
    found = [manifest.index(shard) for shard in manifest.shards[: Order.lanes]]
    for index in found:
        for place in range(min(Order.window, len(index))):
            index[place]
    return found


def job(root: Path) -> Callable[[], list[Index]]:
    """All of that, beginning with nothing."""
    epochs = count()

    def start() -> list[Index]:
        manifest = Manifest.load(root)
        begin(Order(tuple(shard.samples for shard in manifest.split("train")), 2), next(epochs), 0)
        return indices(manifest)

    return start


def write_manifest(root: Path, shards: int, size: int) -> Manifest:
    """A manifest of so many shards, and indices of as many as are read; the tars hold nothing."""
    root.mkdir()
    named = [f"train-{number:05d}.tar" for number in range(shards)]
    made = tuple(Shard(name, "train", size, 5 * size, 10**8, "0" * 64) for name in named)
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
    for name in named[: Order.lanes]:
        (root / name).touch()
        write_index(root / name, entries)
    return manifest


def peak(run: Callable[[], Any]) -> int:
    """The most bytes that were allocated at a time."""
    tracemalloc.start()
    run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def mixing(images: int) -> dict[int, dict[str, Row]]:
    """Every measure of every order, by batch."""
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
        for batch in BATCHES
    }


def measures(epochs: Epochs, source: Ints) -> Row:
    """One order's."""
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
