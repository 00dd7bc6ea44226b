"""The micro-batches of every step, from any reader."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from capdist.batch import Batch
from capdist.config.stage import BatchConfig
from capdist.data.collate import Collate, Row, SampleError
from capdist.data.rank_plan import RankPlan
from capdist.data.reader import Reader
from capdist.data.residency import RegionStore
from shards.schema import ShardError


@dataclass(frozen=True)
class Step:
    """A rank's micro-batches, and why each sample that is missing from them could not be read."""

    batches: list[Batch]
    lost: list[ShardError] = field(default_factory=list)


@dataclass(frozen=True)
class Batches:
    """The micro-batches of every step of one split, for one rank; regions from a store, if any."""

    reader: Reader
    collate: Collate
    batch: BatchConfig
    store: RegionStore | None = None

    @property
    def plan(self) -> RankPlan:
        """Which samples come when."""
        return self.reader.plan

    def epoch(self, epoch: int, consumed: int = 0) -> Iterator[list[Batch]]:
        """Steps of an epoch, from ``consumed`` samples on.

        Where an uneven tail leaves a micro-batch without images, a batch of no weight stands in.

        Raises:
            ShardError: naming the first sample that is not what the shards' writer wrote.
        """
        for step in self.steps(epoch, consumed):
            if step.lost:
                raise step.lost[0]
            yield step.batches
            del step  # its memory serves the next one

    def steps(self, epoch: int, consumed: int = 0) -> Iterator[Step]:
        """The same, but a sample that can't be read is missing, and said."""
        reads, threads = self.reader.steps(epoch, consumed), self.reader.threads
        if not threads:
            yield from map(self._step, reads)
            return
        waiting: deque[Future[Step]] = deque()
        with _pool(threads) as pool:
            try:
                for read in reads:
                    waiting.append(pool.submit(self._step, read))
                    if len(waiting) > threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def of(self, reads: Sequence[Any]) -> Batch:
        """One batch of what `Reader.row` takes.

        Raises:
            ShardError: naming the first sample that is not what the shards' writer wrote.
        """
        lost: list[ShardError] = []
        batch = self._batch(reads, lost)
        if lost:
            raise lost[0]
        return batch

    def _step(self, reads: Sequence[Any]) -> Step:
        micro, lost = self.batch.micro, list[ShardError]()
        parts = range(self.batch.accumulation(self.plan.ranks.world))
        return Step([self._batch(reads[n * micro : (n + 1) * micro], lost) for n in parts], lost)

    def _batch(self, reads: Sequence[Any], lost: list[ShardError]) -> Batch:
        rows = [(read, row) for read in reads if (row := self._row(read, lost)) is not None]
        while rows:
            try:
                return self._collated(*zip(*rows, strict=True))
            except SampleError as error:
                lost.append(error)
                del rows[error.row]
        return Batch.empty(self.reader.shelf.manifest.features.dim)

    def _collated(self, reads: Sequence[Any], rows: Sequence[Row]) -> Batch:
        """With a store, what is read are places: only the mapped reader has one."""
        if self.store is None:
            return self.collate.rows(rows)
        stored = self.store.take(reads)
        batch = self.collate.rows(rows, stored)
        if stored is None:
            self.store.put(reads, batch.regions, batch.region_mask)
        return batch

    def _row(self, read: Any, lost: list[ShardError]) -> Row | None:
        try:
            return self.reader.row(read)
        except ShardError as error:
            lost.append(error)
            return None


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that use this thread's GPU: pinned memory belongs to one."""
    if not torch.cuda.is_available():
        return ThreadPoolExecutor(threads, "reader")
    device = (torch.cuda.current_device(),)
    return ThreadPoolExecutor(threads, "reader", torch.cuda.set_device, device)
