"""The DALI reader: NVIDIA DALI's own reader of tars, given indices in the order wanted.

An index file of DALI's lists the samples of one tar. So the samples of the next steps, a chunk, are
sorted by their tars, read tar by tar in one run of a pipeline, and dealt to their steps. While a
chunk is used, the next one is read. Where there is a GPU, the pipeline brings the regions there.

DALI maps the tars: one that is cut short before a chunk is begun is an error with a name; one that
is cut short while DALI reads it ends the process. The only door to DALI.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from capdist.config import ConfigError
from capdist.data.collate import Held
from capdist.data.places import Place, Plan
from capdist.data.shelf import Shelf, check
from capdist.data.tar import open_tar
from shards.schema import Array, ShardError

#: Bytes of shards that a chunk takes, about: two are in memory at a time.
CHUNK = 128e6

ARRAYS = ("regions.npy", "boxes.npy", "classes.npy")


@dataclass(frozen=True)
class Read:
    """The bytes of a sample's arrays, of its regions a tensor on the GPU, or what is wrong."""

    place: Place
    arrays: dict[str, Array]
    placed: Any = None
    wrong: str = ""


class Dali:
    """Samples of one split, step by step, for one rank.

    Args:
        shelf: of the split.
        plan: which samples are read when.

    Raises:
        ConfigError: if DALI is not installed.
    """

    threads = 0

    def __init__(self, shelf: Shelf, plan: Plan) -> None:
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

    def row(self, read: Read) -> Held:
        """A sample, checked if this process has not met it before.

        Raises:
            ShardError: naming the shard and the sample.
        """
        if read.wrong:
            raise ShardError(read.wrong)
        with self.shelf.named(read.place):
            members: dict[str, Any] = dict(read.arrays)
            if not self.shelf.known(read.place):
                entry, tar = self.shelf.entry(read.place), self.shelf.open(read.place[0]).tar
                members = {name: data.tobytes() for name, data in members.items()}
                members |= open_tar(tar).members(entry, self.shelf.members - set(ARRAYS))
                check(entry, members)
            held = self.shelf.held(read.place, members)
            return held if read.placed is None else on_gpu(held, read.placed)


def on_gpu(held: Held, member: torch.Tensor) -> Held:
    """The same row with its regions taken from their member's bytes on the GPU."""
    numbers = member[len(member) - held.regions.nbytes :].view(
        torch.from_numpy(np.empty(0, held.dtype)).dtype
    )
    return Held(held.text, numbers.view(held.shape), held.dtype, held.boxes, held.classes)


class _Chunk:
    """A run of a pipeline, begun, over the samples of some steps."""

    def __init__(self, shelf: Shelf, steps: Sequence[Sequence[Place]]) -> None:
        self.shelf = shelf
        self.places = steps
        self.wrong: dict[Place, str] = {}
        self.order = [place for place in sorted(chain(*steps)) if self._there(place)]
        self.names = [n for n in ARRAYS if any(n in self._members(p) for p in self.order)]
        self.pipeline: Any = None
        if self.order:
            self.pipeline = self._begin()

    def _members(self, place: Place) -> dict[str, Any]:
        return dict(self.shelf.entry(place).members)

    def _there(self, place: Place) -> bool:
        """Whether a sample can be read: DALI would end at the first that can't."""
        try:
            end = max(m.offset + m.size for m in self.shelf.entry(place).members.values())
            if os.stat(self.shelf.open(place[0]).tar).st_size < end:
                raise ShardError("the tar is cut short: it ends before")
        except (OSError, ShardError) as error:
            self.wrong[place] = self.shelf.describe(place, error)
        return place not in self.wrong

    def _begin(self) -> Any:
        from nvidia.dali import fn, pipeline_def

        gpu = torch.cuda.is_available()

        @pipeline_def(
            batch_size=len(self.order),
            num_threads=1,
            device_id=torch.cuda.current_device() if gpu else None,
            prefetch_queue_depth=1,
        )
        def pipeline() -> tuple[Any, ...]:
            found = fn.readers.webdataset(paths=tars, index_paths=indices, ext=self.names)
            read = found if len(self.names) > 1 else [found]
            return (*read, read[0].gpu()) if gpu else tuple(read)

        with tempfile.TemporaryDirectory(prefix="capdist-dali-") as folder:
            tars, indices = self._indices(Path(folder))
            built = pipeline()
            built.build()
        built.schedule_run()
        return built

    def _indices(self, folder: Path) -> tuple[list[str], list[str]]:
        """The tars, and an index of each that lists this chunk's samples."""
        lines: dict[int, list[str]] = {}
        for place in self.order:
            members = self._members(place)
            lines.setdefault(place[0], []).append(
                " ".join(
                    f"{name} {members[name].offset} {members[name].size} {place[1]}.{name}"
                    for name in self.names
                    if name in members
                )
            )
        for number, listed in lines.items():
            (folder / str(number)).write_text("\n".join([f"v1.2 {len(listed)}", *listed, ""]))
        tars = [str(self.shelf.open(number).tar) for number in lines]
        return tars, [str(folder / str(number)) for number in lines]

    def steps(self) -> Iterator[list[Read]]:
        """The samples of every step."""
        outputs: Sequence[Any] = ()
        if self.pipeline:
            try:
                outputs = self.pipeline.outputs()
            except RuntimeError as error:
                self.wrong |= {place: self.shelf.describe(place, error) for place in self.order}
        number = {place: i for i, place in enumerate(self.order)}
        for step in self.places:
            yield [self._read(place, number.get(place, 0), outputs) for place in step]
        if torch.cuda.is_available():
            # DALI uses this memory again, which copies into batches may still be reading.
            torch.cuda.current_stream().synchronize()

    def _read(self, place: Place, number: int, outputs: Sequence[Any]) -> Read:
        if place in self.wrong:
            return Read(place, {}, wrong=self.wrong[place])
        arrays = {n: np.asarray(o[number]) for n, o in zip(self.names, outputs, strict=False)}
        if len(outputs) == len(self.names):
            return Read(place, arrays)
        return Read(place, arrays, placed=torch.utils.dlpack.from_dlpack(outputs[-1][number]))
