"""What the readers have in common: one order, the same batches bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from capdist.config.data import DataConfig
from capdist.data.collate import Row
from capdist.data.dali import Dali
from capdist.data.mapped import Mapped
from capdist.data.rank_plan import RankPlan
from capdist.data.sample_store import SampleStore
from capdist.data.stream import Stream


class Reader(Protocol):
    """Reads a rank's samples in the order of its plan."""

    @property
    def plan(self) -> RankPlan:
        """Which samples, and in which order."""

    @property
    def shelf(self) -> SampleStore:
        """What the samples are read from."""

    @property
    def threads(self) -> int:
        """How many make batches ahead of the one asked for; 0 if the reader reads ahead itself."""

    def steps(self, epoch: int, consumed: int = 0) -> Iterator[Sequence[Any]]:
        """What `row` takes, for the rank's samples of every step from ``consumed`` on."""

    def row(self, read: Any) -> Row:
        """One of them made ready.

        Raises:
            ShardError: naming the shard and the sample, if it is not what was written.
        """


def make_reader(data: DataConfig, shelf: SampleStore, plan: RankPlan) -> Reader:
    """The reader that ``data.reader`` names.

    Raises:
        ConfigError: if it is not installed.
    """
    name = data.reader
    if name == "auto":
        name = "stream" if any(shard.remote for shard in shelf.shards) else "mapped"
    if name == "dali":
        return Dali(shelf, plan)
    if name == "stream":
        return Stream(shelf, plan, data.workers)
    return Mapped(shelf, plan, data.workers)
