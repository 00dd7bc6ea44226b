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
from capdist.data.collate import Collate, Row
from capdist.data.rank_plan import RankPlan
from capdist.data.reader import Reader
from capdist.data.residency import ResidentRegions
from shards.members.base import SampleError
from shards.schema import ShardError


@dataclass(frozen=True)
class Step:
    """A rank's micro-batches, and one error per sample that could not be read."""

    batches: list[Batch]
    errors: list[ShardError] = field(default_factory=list)


@dataclass(frozen=True)
class Batches:
    """The micro-batches of every step of one split, for one rank.

    Args:
        reader: reads the rank's samples.
        collate: pads them.
        batch: the sizes of batch and micro-batch.
        resident: regions kept on the device; only for the mapped reader.
    """

    reader: Reader
    collate: Collate
    batch: BatchConfig
    resident: ResidentRegions | None = None

    @property
    def plan(self) -> RankPlan:
        return self.reader.plan

    def epoch(self, epoch: int, consumed: int = 0) -> Iterator[list[Batch]]:
        """Steps of an epoch, after the first ``consumed`` samples.

        In an uneven last step a micro-batch without images is `Batch.empty`.

        Raises:
            ShardError: naming the first damaged sample.
        """
        for step in self.steps(epoch, consumed):
            if step.errors:
                raise step.errors[0]
            yield step.batches
            del step  # so that its buffers are free for the next one

    def steps(self, epoch: int, consumed: int = 0) -> Iterator[Step]:
        """As `epoch`, but damaged samples are left out and their errors returned."""
        steps, threads = self.reader.steps(epoch, consumed), self.reader.threads
        if not threads:
            yield from map(self._step, steps)
            return
        pending: deque[Future[Step]] = deque()
        with _pool(threads) as pool:
            try:
                for items in steps:
                    pending.append(pool.submit(self._step, items))
                    if len(pending) > threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def of(self, items: Sequence[Any]) -> Batch:
        """One batch of the samples that `Reader.row` reads for these items.

        Raises:
            ShardError: naming the first damaged sample.
        """
        errors: list[ShardError] = []
        batch = self._batch(items, errors)
        if errors:
            raise errors[0]
        return batch

    def _step(self, items: Sequence[Any]) -> Step:
        micro, errors = self.batch.micro, list[ShardError]()
        numbers = range(self.batch.accumulation(self.plan.ranks.world))
        batches = [self._batch(items[n * micro : (n + 1) * micro], errors) for n in numbers]
        return Step(batches, errors)

    def _batch(self, items: Sequence[Any], errors: list[ShardError]) -> Batch:
        rows = [(item, row) for item in items if (row := self._row(item, errors)) is not None]
        while rows:
            try:
                return self._collated(*zip(*rows, strict=True))
            except SampleError as error:
                errors.append(error)
                del rows[error.row]
        return Batch.empty(self.reader.store.width)

    def _collated(self, items: Sequence[Any], rows: Sequence[Row]) -> Batch:
        """With resident regions the items are sample references: the reader is the mapped one."""
        if self.resident is None:
            return self.collate.rows(rows)
        regions = self.resident.get(items)
        batch = self.collate.rows(rows, regions)
        if regions is None:
            self.resident.put(items, batch.regions, batch.region_mask)
        return batch

    def _row(self, item: Any, errors: list[ShardError]) -> Row | None:
        try:
            return self.reader.row(item)
        except ShardError as error:
            errors.append(error)
            return None


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads on this thread's GPU, to which the memory that they pin belongs."""
    if not torch.cuda.is_available():
        return ThreadPoolExecutor(threads, "reader")
    device = (torch.cuda.current_device(),)
    return ThreadPoolExecutor(threads, "reader", torch.cuda.set_device, device)
