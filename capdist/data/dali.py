"""The DALI reader: NVIDIA DALI's own reader of tars, given indices in the order wanted.

An index file of DALI's lists the samples of one tar. So the samples of the next steps, a chunk, are
sorted by their tars, read tar by tar in one run of a pipeline, and dealt to their steps. While a
chunk is used, the next one is read. Where there is a GPU, the pipeline brings the regions there.

DALI maps the tars: one that is cut short before a chunk is begun is an error with a name; one that
is cut short while DALI reads it ends the process. The only door to DALI.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, groupby, islice
from tarfile import BLOCKSIZE
from typing import Any

import numpy as np
import torch

from capdist.config.base import ConfigError
from capdist.data.collate import Row
from capdist.data.rank_plan import Place, RankPlan
from capdist.data.sample_store import SampleStore, check
from capdist.data.tar import CUT, Tar
from shards.schema import Array, ShardError

#: What DALI reads; all else is small, and read once.
REGIONS = "regions.npy"

#: Bytes of shards that a chunk takes, about: two are in memory at a time.
CHUNK = 128e6


@dataclass(frozen=True)
class Read:
    """The bytes of a sample's regions, on a GPU there too, or what is wrong with the sample."""

    place: Place
    regions: Array | None = None
    placed: torch.Tensor | None = None
    wrong: ShardError | None = None


class Dali:
    """Samples of one split, step by step, for one rank.

    Args:
        shelf: of the split.
        plan: which samples are read when.

    Raises:
        ConfigError: if DALI is not installed.
    """

    threads = 0

    def __init__(self, shelf: SampleStore, plan: RankPlan) -> None:
        try:
            import nvidia.dali  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"data.reader dali: {error}; pip install -c constraints.txt -e '.[dali]', "
                "or take data.reader auto"
            ) from error
        self.shelf = shelf
        self.plan = plan

    def steps(self, epoch: int, consumed: int = 0) -> Iterator[list[Read]]:
        """The rank's samples of every step, in order of position."""
        places = self.plan.places(epoch, consumed)
        chunks = iter(lambda: list(islice(places, self._chunk)), [])
        running = (_Chunk(self.shelf, chunk) for chunk in chunks)
        ahead = next(running, None)
        while ahead is not None:
            current, ahead = ahead, next(running, None)
            yield from current.steps()

    @property
    def _chunk(self) -> int:
        """Steps of a chunk."""
        shards = self.shelf.shards
        sample = sum(shard.bytes for shard in shards) / sum(shard.samples for shard in shards)
        return max(1, round(CHUNK / sample / (self.plan.images // self.plan.ranks.world)))

    def row(self, read: Read) -> Row:
        """A sample, checked if this process has not met it before.

        Raises:
            ShardError: naming the shard and the sample.
        """
        if read.wrong:
            raise read.wrong
        with self.shelf.named(read.place):
            known = self.shelf.known(read.place)
            row = self.shelf.row(read.place, {REGIONS: read.regions}) if known else self._new(read)
            return row if read.placed is None else with_regions(row, read.placed)

    def _new(self, read: Read) -> Row:
        entry, tar = self.shelf.entry(read.place), self.shelf.tar(read.place[0])
        members = {REGIONS: np.asarray(read.regions).tobytes()}
        members |= Tar(tar).members(entry, self.shelf.members - {REGIONS})
        check(entry, members)
        return self.shelf.learn(read.place, entry, members)


def with_regions(row: Row, member: torch.Tensor) -> Row:
    """The same row with its regions taken from their member's bytes on the GPU."""
    like = torch.from_numpy(np.empty(0, row.regions.dtype))
    numbers = member[len(member) - row.regions.nbytes :].view(like.dtype)
    return row._replace(regions=numbers.view(row.regions.shape))


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """The path of a file that no disk has: to make one there takes longer than to read a sample."""
    with open(os.memfd_create("index"), "w") as file:
        file.write(text)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


class _Chunk:
    """A run of a pipeline, begun, over the samples of some steps."""

    def __init__(self, shelf: SampleStore, steps: Sequence[Sequence[Place]]) -> None:
        self.shelf = shelf
        self.places = steps
        self.wrong: dict[Place, ShardError] = {}
        self.order: list[Place] = []
        indices: dict[int, list[str]] = {}
        for number, places in groupby(sorted(chain(*steps)), key=lambda place: place[0]):
            if lines := list(self._lines(list(places))):
                indices[number] = lines
        self.pipeline = self._begin(indices) if indices else None

    def _lines(self, places: Sequence[Place]) -> Iterator[str]:
        """DALI's index of the samples of one tar that can be read: it ends at one that can't."""
        size = 0
        for place in places:
            try:
                start, stop = self._bytes(place)
                size = size or os.stat(self.shelf.tar(place[0])).st_size
                if size < stop:
                    raise ShardError(CUT)
            except (OSError, ShardError) as error:
                self.wrong[place] = self.shelf.wrong(place, error)
            else:
                self.order.append(place)
                yield f"{REGIONS} {start} {stop - start} {place[1]}.{REGIONS}"

    def _bytes(self, place: Place) -> tuple[int, int]:
        """What is read of the tar: from the begin of a block, as DALI wants it, to their end."""
        if known := self.shelf.known(place):  # its line of the index need not be parsed again
            offset = self.shelf.open(place[0]).offsets[place[1]]
            size = known.regions * self.shelf.dim * self.shelf.dtype.itemsize
            return offset - offset % BLOCKSIZE, offset + size
        member = self.shelf.entry(place).members.get(REGIONS)
        if member is None:
            raise ShardError(f"member {REGIONS} is missing")
        return member.offset, member.offset + member.size

    def _begin(self, indices: dict[int, list[str]]) -> Any:
        from nvidia.dali import fn, pipeline_def

        gpu = torch.cuda.is_available()

        @pipeline_def(  # type: ignore[untyped-decorator]
            batch_size=len(self.order),
            num_threads=1,
            device_id=torch.cuda.current_device() if gpu else None,
            prefetch_queue_depth=1,
        )
        def pipeline() -> tuple[Any, ...]:
            read: Any = fn.readers.webdataset(paths=tars, index_paths=files, ext=[REGIONS])
            return (read, read.gpu()) if gpu else (read,)

        tars = [str(self.shelf.tar(number)) for number in indices]
        with ExitStack() as stack:
            texts = ["\n".join([f"v1.2 {len(lines)}", *lines, ""]) for lines in indices.values()]
            files = [stack.enter_context(_in_memory(text)) for text in texts]
            built = pipeline()
            built.build()
        built.schedule_run()
        return built

    def steps(self) -> Iterator[list[Read]]:
        """The samples of every step."""
        outputs: Sequence[Any] = ()
        if self.pipeline:
            try:
                outputs = self.pipeline.outputs()
            except RuntimeError as error:
                self.wrong |= {place: self.shelf.wrong(place, error) for place in self.order}
        number = {place: i for i, place in enumerate(self.order)}
        for step in self.places:
            yield [self._read(place, number, outputs) for place in step]
        if torch.cuda.is_available():
            # DALI uses this memory again, which copies into batches may still be reading.
            torch.cuda.current_stream().synchronize()

    def _read(self, place: Place, number: dict[Place, int], outputs: Sequence[Any]) -> Read:
        if place in self.wrong:
            return Read(place, wrong=self.wrong[place])
        regions, *placed = (output[number[place]] for output in outputs)
        on_gpu = torch.utils.dlpack.from_dlpack(placed[0]) if placed else None
        return Read(place, np.asarray(regions), on_gpu)
