"""The DALI reader: NVIDIA DALI's reader of tars, given index files in the order of the samples.

A DALI index file lists samples of one tar. So the samples of the next steps, a chunk, are sorted by
tar, read tar by tar in one run of a pipeline for each feature set, and assigned to their steps.
While one chunk is used, the next is read. If there is a GPU, the pipeline copies the regions to it.

DALI maps the tars. A tar truncated before its chunk starts is a named error; one truncated while
DALI reads it kills the process. This module is the only importer of DALI.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, groupby, islice
from tarfile import BLOCKSIZE
from typing import Any

import numpy as np
import torch

from capdist.config.base import ConfigError
from capdist.data.collate import Row
from capdist.data.rank_plan import RankPlan, SampleRef
from capdist.data.sample_store import SampleStore, verify
from capdist.data.tar import TRUNCATED, Tar
from shards.feature_sets import MISSING
from shards.schema import Array, ShardError

#: The member that DALI reads; the others are small, and read once.
REGIONS = "regions.npy"

#: Approximate bytes of a chunk; two chunks are in memory at a time.
CHUNK_BYTES = 128e6


@dataclass(frozen=True)
class RawRegions:
    """The bytes of a sample's regions, with a GPU also as a tensor there, or the error.

    Of an image that lacks the feature set there are none of the three.
    """

    regions: Array | None = None
    on_gpu: torch.Tensor | None = None
    error: ShardError | None = None


@dataclass(frozen=True)
class RawSets:
    """A sample's regions of every feature set that is read."""

    ref: SampleRef
    sets: tuple[RawRegions, ...]


class DaliReader:
    """Samples of one split, step by step, for one rank.

    Args:
        store: of the split.
        plan: which samples are read when.

    Raises:
        ConfigError: if DALI is not installed.
    """

    threads = 0

    def __init__(self, store: SampleStore, plan: RankPlan) -> None:
        try:
            import nvidia.dali  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"data.reader dali: {error}; install it with pip install -c constraints.txt -e "
                "'.[dali]', or set data.reader=auto"
            ) from error
        self.store = store
        self.plan = plan

    def steps(self, epoch: int, consumed: int = 0) -> Iterator[list[RawSets]]:
        """The rank's samples of every step, in order of position."""
        steps = self.plan.refs(epoch, consumed)
        chunks = iter(lambda: list(islice(steps, self._chunk_steps)), [])
        numbers = range(len(self.store.sets))
        runs = (
            (chunk, [_ChunkRun(self.store, chunk, number) for number in numbers])
            for chunk in chunks
        )
        following = next(runs, None)
        while following is not None:
            (chunk, current), following = following, next(runs, None)
            for refs, *read in zip(chunk, *(run.steps() for run in current), strict=True):
                by_sample = zip(*read, strict=True)
                yield [RawSets(ref, sets) for ref, sets in zip(refs, by_sample, strict=True)]

    @property
    def _chunk_steps(self) -> int:
        shards = self.store.shards
        sample = sum(shard.bytes for shard in shards) / sum(shard.samples for shard in shards)
        return max(1, round(CHUNK_BYTES / sample / (self.plan.images // self.plan.ranks.world)))

    def row(self, item: RawSets) -> Row:
        """A sample, verified if this process has not read it before.

        Raises:
            ShardError: naming the shard and the sample.
        """
        for raw in item.sets:
            if raw.error:
                raise raw.error
        with self.store.errors_of(item.ref):
            if self.store.cached(item.ref):
                row = self.store.row(item.ref, self._regions(item))
            else:
                row = self._verified(item)
            on_gpu = [raw.on_gpu for raw in item.sets]
            return row if on_gpu[0] is None else with_regions(row, on_gpu)

    def _regions(self, item: RawSets) -> list[dict[str, Any]]:
        """The bytes of regions.npy in each tar."""
        members: list[dict[str, Any]] = [{} for _ in self.store.tars]
        for found, raw in zip(self.store.sets, item.sets, strict=True):
            if raw.regions is not None:
                members[found.tar][REGIONS] = raw.regions
        return members

    def _verified(self, item: RawSets) -> Row:
        number, sample = item.ref
        entries = self.store.open(number).of(sample)
        members = []
        for tar, read in enumerate(self._regions(item)):
            known = {name: np.asarray(data).tobytes() for name, data in read.items()}
            wanted = self.store.wanted[tar] - {REGIONS}
            known |= Tar(self.store.tar(number, tar)).members(entries[tar], wanted)
            verify(entries[tar], known)
            members.append(known)
        return self.store.decode(item.ref, entries, members)


def with_regions(row: Row, members: Sequence[torch.Tensor | None]) -> Row:
    """The row with its regions taken from the bytes of regions.npy on the GPU.

    ``members`` are those of every feature set, None for one that the image lacks; not the first.
    """
    device = next(member.device for member in members if member is not None)
    pairs = zip(row.regions, members, strict=True)
    return row._replace(regions=tuple(_as_regions(array, m, device) for array, m in pairs))


def _as_regions(array: Array, member: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    example = torch.from_numpy(np.empty(0, array.dtype))
    if member is None:
        return example.new_empty(array.shape, device=device)
    return member[len(member) - array.nbytes :].view(example.dtype).view(array.shape)


@contextmanager
def _in_memory_file(text: str) -> Iterator[str]:
    """The path of a file in memory: creating one on disk takes longer than reading a sample."""
    with open(os.memfd_create("index"), "w") as file:
        file.write(text)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


class _ChunkRun:
    """A started run of a pipeline, over one feature set of the samples of some steps."""

    def __init__(
        self, store: SampleStore, refs: Sequence[Sequence[SampleRef]], number_of_set: int
    ) -> None:
        self.store = store
        self.number = number_of_set
        self.set = store.sets[number_of_set]
        self.refs = refs
        self.errors: dict[SampleRef, ShardError] = {}
        self.order: list[SampleRef] = []
        indices: dict[int, list[str]] = {}
        for number, mine in groupby(sorted(chain(*refs)), key=lambda ref: ref[0]):
            if lines := list(self._lines(mine)):
                indices[number] = lines
        self.pipeline = self._start(indices) if indices else None

    def _lines(self, refs: Iterable[SampleRef]) -> Iterator[str]:
        """DALI's index of the readable samples of one tar: DALI stops at an unreadable one."""
        size = 0
        for ref in refs:
            try:
                if (span := self._bytes(ref)) is None:
                    continue
                start, stop = span
                size = size or os.stat(self.store.tar(ref[0], self.set.tar)).st_size
                if size < stop:
                    raise ShardError(TRUNCATED)
            except (OSError, ShardError) as error:
                self.errors[ref] = self.store.error(ref, error)
            else:
                self.order.append(ref)
                yield f"{REGIONS} {start} {stop - start} {ref[1]}.{REGIONS}"

    def _bytes(self, ref: SampleRef) -> tuple[int, int] | None:
        """The range of the tar to read, or None if the image lacks the set.

        It begins at a tar block, as DALI requires.
        """
        shard = self.store.open(ref[0])
        if sample := self.store.cached(ref):  # saves parsing its index line again
            offset, count = shard.offsets[self.number][ref[1]], sample.counts[self.number]
            size = count * self.set.dim * self.set.dtype.itemsize
            return (offset - offset % BLOCKSIZE, offset + size) if count else None
        members = shard.entries[self.set.tar][ref[1]].members
        if MISSING in members:
            return None
        if REGIONS not in members:
            raise ShardError(f"member {REGIONS} is missing")
        member = members[REGIONS]
        return member.offset, member.offset + member.size

    def _start(self, indices: dict[int, list[str]]) -> Any:
        from nvidia.dali import fn, pipeline_def

        gpu = torch.cuda.is_available()

        @pipeline_def(  # type: ignore[untyped-decorator]
            batch_size=len(self.order),
            num_threads=1,
            device_id=torch.cuda.current_device() if gpu else None,
            prefetch_queue_depth=1,
        )
        def pipeline() -> tuple[Any, ...]:
            regions: Any = fn.readers.webdataset(paths=tars, index_paths=files, ext=[REGIONS])
            return (regions, regions.gpu()) if gpu else (regions,)

        tars = [str(self.store.tar(number, self.set.tar)) for number in indices]
        with ExitStack() as stack:
            texts = ["\n".join([f"v1.2 {len(lines)}", *lines, ""]) for lines in indices.values()]
            files = [stack.enter_context(_in_memory_file(text)) for text in texts]
            built = pipeline()
            built.build()
        built.schedule_run()
        return built

    def steps(self) -> Iterator[list[RawRegions]]:
        """The samples of every step, in order of position."""
        outputs: Sequence[Any] = ()
        if self.pipeline:
            try:
                outputs = self.pipeline.outputs()
            except RuntimeError as error:
                self.errors |= {ref: self.store.error(ref, error) for ref in self.order}
        number = {ref: i for i, ref in enumerate(self.order)}
        for step in self.refs:
            yield [self._sample(ref, number, outputs) for ref in step]
        if torch.cuda.is_available():
            # DALI reuses this memory, from which copies into batches may still be reading.
            torch.cuda.current_stream().synchronize()

    def _sample(
        self, ref: SampleRef, number: dict[SampleRef, int], outputs: Sequence[Any]
    ) -> RawRegions:
        if ref in self.errors:
            return RawRegions(error=self.errors[ref])
        if ref not in number:
            return RawRegions()
        regions, *copies = (output[number[ref]] for output in outputs)
        on_gpu = torch.utils.dlpack.from_dlpack(copies[0]) if copies else None
        return RawRegions(np.asarray(regions), on_gpu)
