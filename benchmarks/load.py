"""The readers compared with other ways to read the same images, from the page cache on one core."""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load_corpus import FEATURES, IN_SHARD, REGIONS, VOCAB, Corpus, many_shards, two_sets
from benchmarks.load_peers import BareDali, CopyFloor, hdf5, lmdb, npz, webdataset
from benchmarks.timing import Timing, interleave
from capdist.config.base import ConfigError
from capdist.config.data import DataConfig
from capdist.config.stage import BatchConfig
from capdist.data.batches import Batches
from capdist.data.dataset import training_batches
from capdist.data.rank_plan import Ranks
from capdist.reporting.table import format_markdown, format_table
from shards.manifest import Manifest
from shards.progress import tracked

BATCH, ROUNDS = 64, 5
#: Number of shards in the cold start, and of samples in each.
SHARDS, SAMPLES = 1000, 256
COLUMNS = ("samples/s", "slowest", "fastest", "x webdataset", "of floor %")
FLOOR, PEER, BARE = "copy floor", "webdataset, default decoding", "DALI, bare pipeline"
READERS = ("mapped", "stream", "dali")
#: The reported ratios: two rows, and the target.
RATIOS = {
    "ratio_vs_webdataset": ("mapped", PEER, 10.0),
    "ratio_vs_floor": ("mapped", FLOOR, 0.6),
    "stream_vs_webdataset": ("stream", PEER, 1.0),
    "dali_vs_bare_dali": ("dali", BARE, 0.8),
    "two_sets_vs_one": ("mapped, two sets", "mapped", 0.9),
}
#: Modules that the peers need.
PACKAGES = ("h5py", "isal", "lmdb", "nvidia", "webdataset")
#: Epochs per round of readers that take a fraction of a second for one.
EPOCHS = {"mapped": 5, "mapped, two sets": 5, FLOOR: 5}
#: Target of the time to the first batch, in seconds.
COLD_START = 1.0


@dataclass(frozen=True)
class Figures:
    """Times of epochs of ``images`` images.

    ``cold``: seconds to a first batch. ``load``: load average of the last five minutes.
    """

    images: int
    timings: dict[str, Timing]
    cold: list[float]
    load: float

    def ratio(self, name: str, other: str) -> float:
        """How many times as fast as the other."""
        return self.timings[name].speedup(self.timings[other])

    def to_json(self) -> dict[str, Any]:
        speeds = {
            name: {
                "median": self.images / timing.median,
                "slowest": self.images / timing.spread[1],
                "fastest": self.images / timing.spread[0],
            }
            for name, timing in self.timings.items()
        }
        ratios = {name: self.ratio(row, other) for name, (row, other, _) in RATIOS.items()}
        sizes = {"images": self.images, "regions": REGIONS, "features": FEATURES, "batch": BATCH}
        figures = {"samples_per_s": speeds, **ratios, "cold_start_s": median(self.cold)}
        return {**sizes, **figures, "machine_load": self.load}

    @property
    def rows(self) -> dict[str, dict[str, float]]:
        return {
            name: {
                "samples/s": speeds["median"],
                "slowest": speeds["slowest"],
                "fastest": speeds["fastest"],
                "x webdataset": self.ratio(name, PEER),
                "of floor %": 100 * self.ratio(name, FLOOR),
            }
            for name, speeds in self.to_json()["samples_per_s"].items()
        }

    def table(self) -> str:
        return f"{format_table(self.rows, COLUMNS)}\n\n{self._targets()}"

    def page(self, command: str) -> str:
        return (
            f"# Reading shards\n\n{self.images} images of {REGIONS} x {FEATURES} fp16 regions with "
            f"boxes and five captions, {IN_SHARD} per shard, in the page cache, everything in one "
            f"process; complete batches of {BATCH}. Median, slowest and fastest of {ROUNDS} "
            f"interleaved rounds, which have {EPOCHS[FLOOR]} epochs for mapped and the floor, on a "
            f"machine of {os.cpu_count()} cores with a load of {self.load:.1f}: if that is well "
            "above 1, other programs were running. Ratios are the median of the rounds' own "
            "ratios. In a first epoch our readers parse every caption and check every byte; later, "
            "words are cached, and mapped and dali skip bytes that this process has checked. With "
            "two feature sets, each has half of the regions, so that both have the bytes of one. "
            "The other tools check none, and all except webdataset have the captions' ids in "
            "memory. The floor only copies the regions from a memory map into the batches' memory; "
            "what mapped adds is the interpreter's time for the order, words, boxes and masks."
            "\n\n"
            f"{format_markdown(self.rows, COLUMNS)}\n\n{self._targets()}\n\n"
            f"```\n{command}\n```\n"
        )

    def _targets(self) -> str:
        figures = self.to_json()
        lines = [
            f"- `{name}` {figures[name]:.2f}, target {target:g} or more"
            for name, (_, _, target) in RATIOS.items()
        ]
        lines.append(
            f"- `cold_start_s` {figures['cold_start_s']:.2f}, target less than {COLD_START:g}: "
            f"from the manifest of {SHARDS} shards of {SAMPLES} samples to the first batch"
        )
        return "\n".join(lines)


def measure(images: int) -> Figures:
    """Time all readers in turn, on a corpus in a temporary folder.

    Raises:
        ConfigError: if there is no image, or a peer is not installed.
    """
    if images < 1:
        raise ConfigError(f"--images: expected 1 or more, got {images}")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ConfigError(
            f"not installed: {', '.join(missing)}; "
            "pip install -c constraints.txt -e '.[train,bench,dali]'"
        )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        corpus = Corpus.make(root, images)
        rounds = interleave(programs(corpus, root), ROUNDS)
        timings = {name: timing.per_call(EPOCHS.get(name, 1)) for name, timing in rounds.items()}
        many = many_shards(root / "many", SHARDS, SAMPLES)
        starts = tracked(range(ROUNDS), ROUNDS, title="starting readers", unit="round")
        cold = [cold_start(many) for _ in starts]
        return Figures(images, timings, cold, os.getloadavg()[1])


def programs(corpus: Corpus, root: Path) -> dict[str, Callable[[], Any]]:
    """Functions that read one epoch, or `EPOCHS` of them."""
    bare, floor = BareDali(corpus, BATCH, root / "idx"), CopyFloor(corpus, BATCH)
    peers: dict[str, Callable[[], Iterable[Any]]] = {
        FLOOR: floor.epoch,
        PEER: lambda: webdataset(corpus, BATCH),
        "npz files": lambda: npz(corpus, BATCH),
        "HDF5": lambda: hdf5(corpus, BATCH),
        "LMDB": lambda: lmdb(corpus, BATCH),
        BARE: bare.epoch,
    }
    ours: dict[str, Callable[[], Iterable[Any]]] = {}
    for name in READERS:
        ours[name] = reader(corpus.manifest, name).epoch
        ours[f"{name}, first epoch"] = first_epoch(corpus.manifest, name)
    ours["mapped, two sets"] = reader(two_sets(root / "two", len(corpus.words)), "mapped").epoch
    return {name: consume(run, EPOCHS.get(name, 1)) for name, run in (ours | peers).items()}


def first_epoch(manifest: Manifest, name: str) -> Callable[[], Iterable[Any]]:
    """A function that reads an epoch with a new reader every time."""
    return lambda: reader(manifest, name).epoch()


def consume(run: Callable[[], Iterable[Any]], epochs: int) -> Callable[[], Any]:
    """A function that reads epochs and drops the batches."""
    return lambda: deque((batch for _ in range(epochs) for batch in run()), maxlen=0)


def reader(manifest: Manifest, name: str) -> Epochs:
    """One of our readers, without reader processes."""
    data = DataConfig(shards="", reader=name, workers=0)
    sizes = BatchConfig(images=BATCH, micro=BATCH)
    return Epochs(training_batches(manifest, data, sizes, VOCAB, Ranks(), 1))


class Epochs:
    """A counter of epochs, each of which has its own order."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.number = 0

    def epoch(self) -> Iterable[Any]:
        self.number += 1
        return self.batches.epoch(self.number)


def cold_start(root: Path) -> float:
    """Seconds from reading the manifest to the first batch."""
    started = time.perf_counter()
    next(iter(reader(Manifest.load(root), "mapped").epoch()))
    return time.perf_counter() - started
