"""The stream reader: WebDataset tars, read sequentially by the webdataset library."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, BinaryIO, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from capdist.data.collate import Row
from capdist.data.order import Span
from capdist.data.rank_plan import RankPlan, SampleRef
from capdist.data.sample_store import SampleStore, verify
from capdist.signals import ignore_stop
from shards.schema import ShardError

T = TypeVar("T")


@dataclass(frozen=True)
class RawSample:
    """The bytes of a sample's members in each of its tars, or the error of reading them."""

    ref: SampleRef
    members: tuple[dict[str, bytes], ...]
    error: ShardError | None = None


@dataclass(frozen=True)
class StreamReader:
    """Samples of one split, step by step, for one rank.

    Args:
        store: of the split.
        plan: which samples are read when.
        workers: reader processes, which share the rank's lanes; 0 reads in this process.
    """

    store: SampleStore
    plan: RankPlan
    workers: int = 0

    @property
    def threads(self) -> int:
        """None: the worker processes read ahead."""
        return 0

    def steps(self, epoch: int, consumed: int = 0) -> Iterator[list[RawSample]]:
        """The rank's samples of every step, in order of position."""
        start = self.plan.first_step(consumed)
        # A generator of its own: drawing from the global one would change the model's draws.
        loader = DataLoader(
            _Lanes(self, epoch, start),
            batch_size=None,
            collate_fn=_identity,
            num_workers=self.workers,
            worker_init_fn=ignore_stop,
            generator=torch.Generator(),
        )
        shares = iter(loader)
        for _ in range(start, self.plan.steps):
            step = chain.from_iterable(next(shares) for _ in range(max(1, self.workers)))
            yield [sample for _, sample in sorted(step, key=lambda pair: pair[0])]

    def row(self, item: RawSample) -> Row:
        """A sample, its text parsed only the first time.

        Raises:
            ShardError: naming the shard and the sample.
        """
        if item.error:
            raise item.error
        with self.store.errors_of(item.ref):
            return self.store.row(item.ref, item.members)


def _identity(share: T) -> T:
    return share


@dataclass(frozen=True)
class _Lanes(IterableDataset[list[tuple[int, RawSample]]]):
    """One worker's share of the rank's lanes: for every step, (position, sample) pairs."""

    reader: StreamReader
    epoch: int
    first_step: int

    def __iter__(self) -> Iterator[list[tuple[int, RawSample]]]:
        plan = self.reader.plan
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        start = self.first_step * plan.images
        lanes = {
            lane: read_lane(self.reader.store, plan, self.epoch, lane, start)
            for lane in plan.lanes[worker::workers]
        }
        for step in range(self.first_step, plan.steps):
            mine = ((p, lanes.get(p % plan.order.lanes)) for p in plan.positions(step))
            yield [(position, next(lane)) for position, lane in mine if lane]


def read_lane(
    store: SampleStore, plan: RankPlan, epoch: int, lane: int, start: int
) -> Iterator[RawSample]:
    """Samples of a lane whose positions are ``start`` or later."""
    order = plan.order
    skip = len(range(lane, start, order.lanes))
    number = skip // order.window
    # A block is shuffled as a whole, so reading starts at the beginning of the current block.
    samples = read_spans(store, order.lane_spans(epoch, lane), number * order.window)
    skip -= number * order.window
    while (number * order.window) < order.lane_length(lane):
        permutation = order.block(epoch, lane, number)
        block = [next(samples) for _ in permutation]
        yield from (block[index] for index in permutation[skip:])
        number, skip = number + 1, 0


def read_spans(store: SampleStore, spans: list[Span], skip: int) -> Iterator[RawSample]:
    """The samples of spans in turn, without the first ``skip``."""
    for span, following in zip_longest(spans, spans[1:]):
        size = span.stop - span.start
        if skip < size:
            if following:
                tars = range(len(store.tars))
                store.manifest.prefetch([store.file(following.shard, tar) for tar in tars])
            yield from read_span(store, Span(span.shard, span.start + skip, span.stop))
        skip = max(0, skip - size)


def read_span(store: SampleStore, span: Span) -> Iterator[RawSample]:
    """Samples start..stop-1 of a shard; reading goes on after a damaged one."""
    number = span.start
    while number < span.stop:
        try:
            for sample in _read_from(store, Span(span.shard, number, span.stop)):
                yield sample
                number += 1
        except Exception as error:  # tarfile and webdataset pass on errors of many types
            ref = (span.shard, number)
            yield RawSample(ref, (), store.error(ref, error))
            number += 1


def _read_from(store: SampleStore, span: Span) -> Iterator[RawSample]:
    """Samples start..stop-1 of a shard, from all its tars."""
    with ExitStack() as stack:
        tars = [
            stack.enter_context(closing(_read_tar(store, span, t))) for t in range(len(store.tars))
        ]
        for number in range(span.start, span.stop):
            yield RawSample((span.shard, number), tuple(next(tar) for tar in tars))


def _read_tar(
    store: SampleStore, span: Span, number_of_tar: int
) -> Generator[dict[str, bytes], None, None]:
    """The members of samples start..stop-1 in one tar, read by the webdataset library."""
    from webdataset.tariterators import group_by_keys

    entries = store.open(span.shard).entries[number_of_tar]
    tar, wanted = str(store.tar(span.shard, number_of_tar)), store.wanted[number_of_tar]
    # Not webdataset's gopen, which runs a name that begins with "pipe:" as a command.
    with open(tar, "rb") as file:
        file.seek(entries[span.start].offset)
        samples = group_by_keys(_files(file, tar, wanted))
        for number in range(span.start, span.stop):
            # One index entry at a time: a damaged entry fails its own sample only.
            entry = entries[number]
            members = next(samples, None)
            if members is None:
                raise ShardError(f"the tar ends after {number} samples, expected {len(entries)}")
            if members["__key__"] != entry.key:
                raise ShardError(f"the tar has sample {members['__key__']} in its place")
            data = {name: member for name, member in members.items() if name[0] != "_"}
            verify(entry, data)
            yield data


def _files(file: BinaryIO, url: str, wanted: frozenset[str]) -> Iterator[dict[str, Any]]:
    from webdataset.tariterators import tar_file_iterator

    for member in tar_file_iterator(file, select_files=lambda name: _suffix(name) in wanted):
        yield {**member, "__url__": url}


def _suffix(name: str) -> str:
    return name.partition(".")[2]
