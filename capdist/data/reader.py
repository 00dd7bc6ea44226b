"""The protocol of all readers: the same order, and the same batches bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from capdist.config.data import DataConfig
from capdist.data.collate import Row
from capdist.data.dali import DaliReader
from capdist.data.mapped import MappedReader
from capdist.data.rank_plan import RankPlan
from capdist.data.sample_store import SampleStore
from capdist.data.stream import StreamReader


class Reader(Protocol):
    """Reads a rank's samples in the order of its plan."""

    @property
    def plan(self) -> RankPlan: ...

    @property
    def store(self) -> SampleStore: ...

    @property
    def threads(self) -> int:
        """Threads that prepare batches ahead; 0 if the reader itself reads ahead."""

    def steps(self, epoch: int, consumed: int = 0) -> Iterator[Sequence[Any]]:
        """For every step after ``consumed`` samples, an item per sample of the rank for `row`."""

    def row(self, item: Any) -> Row:
        """The sample of an item.

        Raises:
            ShardError: naming the shard and the sample, if it is damaged.
        """


def make_reader(data: DataConfig, store: SampleStore, plan: RankPlan) -> Reader:
    """The reader that ``data.reader`` names.

    Raises:
        ConfigError: if its library is not installed.
    """
    name = data.reader
    if name == "auto":
        name = "stream" if any(shard.remote for shard in store.shards) else "mapped"
    if name == "dali":
        return DaliReader(store, plan)
    if name == "stream":
        return StreamReader(store, plan, data.workers)
    return MappedReader(store, plan, data.workers)
