"""The stream reader: WebDataset tars, read front to back, in the order of `order.py`."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from tarfile import TarError
from typing import Any, BinaryIO

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from capdist.config import ConfigError
from capdist.data.order import Order, Span
from capdist.signals import ignore_stop
from shards.concepts import Concepts
from shards.index import Features, Manifest, SampleIndex
from shards.schema import MEMBERS, Sample, ShardError, decode

#: Members that are always read; the others' bytes are passed over.
READ = frozenset(MEMBERS) - {"grounding.json", "png"}


@dataclass(frozen=True)
class Ranks:
    """The place of this process in the job."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Stream:
    """Samples of one split, step by step, for one rank.

    Args:
        manifest: of the shards.
        split: its name.
        order: which sample comes when.
        ranks: this process's place; ``world`` must divide ``order.lanes``.
        images: samples of a step, over all ranks; ``world`` must divide them.
        workers: reader processes; 0 reads in this one.
        grounding: whether to read where phrases lie, which takes as long as all the rest.
    """

    manifest: Manifest
    split: str
    order: Order
    ranks: Ranks
    images: int
    workers: int = 0
    grounding: bool = False

    def __post_init__(self) -> None:
        if self.order.lanes % self.ranks.world:
            raise ConfigError(
                f"{self.ranks.world} ranks do not divide {self.order.lanes} lanes: "
                "set data.lanes to a multiple of the ranks"
            )
        if self.images % self.ranks.world:
            raise ConfigError(
                f"{self.ranks.world} ranks do not divide a batch of {self.images} images: "
                "set stages.N.batch.images to a multiple of the ranks"
            )

    @property
    def members(self) -> frozenset[str]:
        """What is read of a sample; concepts that lie beside the tars are not read in them."""
        beside = {"concepts.json"} if self.manifest.concepts else set()
        return (READ | {"grounding.json"} if self.grounding else READ) - beside

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same on every rank; the last may be uneven."""
        return -(-self.order.samples // self.images)

    def epoch(self, epoch: int, consumed: int = 0) -> Iterator[list[Sample]]:
        """The rank's samples of every step from ``consumed`` samples on, in order of position.

        A rank may get fewer samples than others, or none, in the last step only.

        Raises:
            ShardError: if a shard is missing, truncated, or not what the manifest says.
        """
        done = -(-consumed // self.images)  # the last step of an epoch may be an uneven one
        lanes = _Lanes(self, epoch, done)
        # A generator of its own: a loader draws from it, and the model's must not notice.
        loader = DataLoader(
            lanes,
            batch_size=None,
            num_workers=self.workers,
            worker_init_fn=ignore_stop,
            generator=torch.Generator(),
        )
        pieces = iter(loader)
        for _ in range(done, self.steps):
            parts = [next(pieces) for _ in range(max(1, self.workers))]
            yield [sample for _, sample in sorted(chain(*parts), key=lambda pair: pair[0])]


@dataclass(frozen=True)
class _Lanes(IterableDataset[list[tuple[int, Sample]]]):
    """What one worker reads: its share of the rank's lanes, a piece of every step."""

    stream: Stream
    epoch: int
    first_step: int

    def __iter__(self) -> Iterator[list[tuple[int, Sample]]]:
        stream = self.stream
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        mine = range(stream.ranks.rank, stream.order.lanes, stream.ranks.world)[worker::workers]
        start = self.first_step * stream.images
        readers = {lane: read_lane(stream, self.epoch, lane, start) for lane in mine}
        for step in range(self.first_step, stream.steps):
            first = step * stream.images
            last = min(first + stream.images, stream.order.samples)
            yield [
                (position, next(readers[position % stream.order.lanes]))
                for position in range(first, last)
                if position % stream.order.lanes in readers
            ]


def read_lane(stream: Stream, epoch: int, lane: int, start: int) -> Iterator[Sample]:
    """Samples of a lane whose positions are ``start`` or later."""
    order = stream.order
    skip = len(range(lane, start, order.lanes))
    number = skip // order.window
    # A block is mixed as a whole, so reading starts at the first block still in use.
    samples = read_spans(stream, order.lane_spans(epoch, lane), number * order.window)
    skip -= number * order.window
    while (number * order.window) < order.lane_length(lane):
        places = order.block(epoch, lane, number)
        block = [next(samples) for _ in places]
        yield from (block[place] for place in places[skip:])
        number, skip = number + 1, 0


def read_spans(stream: Stream, spans: list[Span], skip: int) -> Iterator[Sample]:
    """The samples of spans in turn, without the first ``skip``."""
    for span in spans:
        size = span.stop - span.start
        if skip < size:
            yield from read_span(stream, Span(span.shard, span.start + skip, span.stop))
        skip = max(0, skip - size)


def read_span(stream: Stream, span: Span) -> Iterator[Sample]:
    """Samples start..stop-1 of a shard, through the webdataset library."""
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys

    shard = stream.manifest.split(stream.split)[span.shard]
    path = stream.manifest.tar(shard)
    entries = stream.manifest.index(shard)[span.start : span.stop]
    beside = stream.manifest.concepts
    concepts = beside.read(shard.name) if beside else None
    found = 0
    try:
        with gopen(str(path)) as file:
            file.seek(entries[0].offset)
            for members in group_by_keys(_files(file, str(path), stream.members)):
                _check(members, entries[found])
                sample = _decode(members, stream.manifest.features)
                yield sample if concepts is None else _with_concepts(sample, concepts)
                found += 1
                if found == len(entries):
                    return
    except (TarError, ShardError, OSError) as error:
        raise ShardError(f"{path}: {error}; {_REMEDY}") from error
    raise ShardError(
        f"{path}: ends after {span.start + found} samples, expected {shard.samples}; {_REMEDY}"
    )


_REMEDY = "'python -m shards verify' names all damage"


def _with_concepts(sample: Sample, concepts: Mapping[str, Concepts]) -> Sample:
    if sample.key not in concepts:
        raise ShardError(f"sample {sample.key}: not among the concepts beside the tar")
    return replace(sample, concepts=concepts[sample.key])


def _files(file: BinaryIO, url: str, wanted: frozenset[str]) -> Iterator[dict[str, Any]]:
    from webdataset.tariterators import tar_file_iterator

    for member in tar_file_iterator(file, select_files=lambda name: _suffix(name) in wanted):
        yield {**member, "__url__": url}


def _suffix(name: str) -> str:
    return name.partition(".")[2]


def _check(members: Mapping[str, Any], entry: SampleIndex) -> None:
    """Compare what was read with the index, for a flipped bit trains as well as a right one."""
    if members["__key__"] != entry.key:
        raise ShardError(f"sample {members['__key__']}, expected {entry.key}")
    for name, data in members.items():
        if name in MEMBERS and zlib.crc32(data) != entry.members[name].crc32:
            raise ShardError(f"sample {entry.key}: {name} has another checksum than in the index")


def _decode(members: Mapping[str, Any], features: Features) -> Sample:
    key = members["__key__"]
    sample = decode(key, {name: data for name, data in members.items() if name[0] != "_"})
    if sample.regions.shape[1] != features.dim:
        raise ShardError(
            f"sample {key}: regions are {sample.regions.shape[1]} wide, "
            f"but the manifest says {features.dim}"
        )
    return replace(sample, regions=features.widen(sample.regions))
