"""The stream reader: WebDataset tars, read front to back by the webdataset library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, BinaryIO, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from capdist.data.collate import Row
from capdist.data.order import Span
from capdist.data.rank_plan import Place, RankPlan
from capdist.data.sample_store import SampleStore, check
from capdist.signals import ignore_stop
from shards.schema import ShardError

T = TypeVar("T")


@dataclass(frozen=True)
class Read:
    """The bytes of a sample's members, or what is wrong with it."""

    place: Place
    members: dict[str, bytes]
    wrong: ShardError | None = None


@dataclass(frozen=True)
class Stream:
    """Samples of one split, step by step, for one rank.

    Args:
        shelf: of the split.
        plan: which samples are read when.
        workers: reader processes, which share the rank's lanes; 0 reads in this one.
    """

    shelf: SampleStore
    plan: RankPlan
    workers: int = 0

    @property
    def threads(self) -> int:
        """The workers read ahead."""
        return 0

    def steps(self, epoch: int, consumed: int = 0) -> Iterator[list[Read]]:
        """The rank's samples of every step, in order of position."""
        start = self.plan.first_step(consumed)
        # A generator of its own: a loader draws from it, and the model's must not notice.
        loader = DataLoader(
            _Lanes(self, epoch, start),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            worker_init_fn=ignore_stop,
            generator=torch.Generator(),
        )
        pieces = iter(loader)
        for _ in range(start, self.plan.steps):
            parts = [next(pieces) for _ in range(max(1, self.workers))]
            yield [read for _, read in sorted(chain(*parts), key=lambda pair: pair[0])]

    def row(self, read: Read) -> Row:
        """A sample, its words remembered from the last time.

        Raises:
            ShardError: naming the shard and the sample.
        """
        if read.wrong:
            raise read.wrong
        with self.shelf.named(read.place):
            return self.shelf.row(read.place, read.members)


def _as_it_is(piece: T) -> T:
    return piece


@dataclass(frozen=True)
class _Lanes(IterableDataset[list[tuple[int, Read]]]):
    """What one worker reads: its share of the rank's lanes, a piece of every step."""

    stream: Stream
    epoch: int
    first_step: int

    def __iter__(self) -> Iterator[list[tuple[int, Read]]]:
        plan = self.stream.plan
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        start = self.first_step * plan.images
        readers = {
            lane: read_lane(self.stream.shelf, plan, self.epoch, lane, start)
            for lane in plan.lanes[worker::workers]
        }
        for step in range(self.first_step, plan.steps):
            mine = ((p, readers.get(p % plan.order.lanes)) for p in plan.positions(step))
            yield [(position, next(reader)) for position, reader in mine if reader]


def read_lane(
    shelf: SampleStore, plan: RankPlan, epoch: int, lane: int, start: int
) -> Iterator[Read]:
    """Samples of a lane whose positions are ``start`` or later."""
    order = plan.order
    skip = len(range(lane, start, order.lanes))
    number = skip // order.window
    # A block is mixed as a whole, so reading starts at the first block still in use.
    samples = read_spans(shelf, order.lane_spans(epoch, lane), number * order.window)
    skip -= number * order.window
    while (number * order.window) < order.lane_length(lane):
        places = order.block(epoch, lane, number)
        block = [next(samples) for _ in places]
        yield from (block[place] for place in places[skip:])
        number, skip = number + 1, 0


def read_spans(shelf: SampleStore, spans: list[Span], skip: int) -> Iterator[Read]:
    """The samples of spans in turn, without the first ``skip``."""
    for span, following in zip_longest(spans, spans[1:]):
        size = span.stop - span.start
        if skip < size:
            if following:
                shelf.manifest.prefetch([shelf.shards[following.shard]])
            yield from read_span(shelf, Span(span.shard, span.start + skip, span.stop))
        skip = max(0, skip - size)


def read_span(shelf: SampleStore, span: Span) -> Iterator[Read]:
    """Samples start..stop-1 of a shard; one that can't be read says why, and the next is tried."""
    number = span.start
    while number < span.stop:
        try:
            for read in _read_from(shelf, Span(span.shard, number, span.stop)):
                yield read
                number += 1
        except Exception as error:  # tarfile and webdataset raise whatever their parts do
            place = (span.shard, number)
            yield Read(place, {}, shelf.wrong(place, error))
            number += 1


def _read_from(shelf: SampleStore, span: Span) -> Iterator[Read]:
    """Samples start..stop-1 of a shard, through the webdataset library."""
    from webdataset.tariterators import group_by_keys

    opened, tar = shelf.open(span.shard), str(shelf.tar(span.shard))
    # Not by webdataset's gopen, which takes a name that begins with "pipe:" for a command.
    with open(tar, "rb") as file:
        file.seek(opened.entries[span.start].offset)
        samples = group_by_keys(_files(file, tar, shelf.members))
        for number in range(span.start, span.stop):
            # One by one: an entry that is damaged is only its own sample's.
            entry = opened.entries[number]
            members = next(samples, None)
            if members is None:
                raise ShardError(
                    f"the tar ends after {number} samples, expected {opened.shard.samples}"
                )
            if members["__key__"] != entry.key:
                raise ShardError(f"found sample {members['__key__']} in its place")
            bytes_of = {name: data for name, data in members.items() if name[0] != "_"}
            check(entry, bytes_of)
            yield Read((span.shard, number), bytes_of)


def _files(file: BinaryIO, url: str, wanted: frozenset[str]) -> Iterator[dict[str, Any]]:
    from webdataset.tariterators import tar_file_iterator

    for member in tar_file_iterator(file, select_files=lambda name: _suffix(name) in wanted):
        yield {**member, "__url__": url}


def _suffix(name: str) -> str:
    return name.partition(".")[2]
