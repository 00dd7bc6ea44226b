"""The set kept where nothing evicts it: in the node's memory, or its regions on the GPU.

A hot page cache needs no copy of the set in memory beside it: reading from it is one copy into the
batch, and all ranks of a node share it. What it lacks is a promise that pages stay, so ``ram``
locks those of the tars: one copy for each node, for all readers, released when the process ends.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from capdist.config.base import ConfigError
from capdist.data.rank_plan import Place
from shards.manifest import Manifest


def lock_pages(manifest: Manifest, split: str) -> None:
    """Bring all tars of a split into the page cache, and keep them there.

    Raises:
        ConfigError: if they do not fit.
    """
    shards = manifest.split(split)
    for shard in shards:
        try:
            _lock(manifest.tar_path(shard))
        except OSError as error:
            wanted = sum(shard.bytes for shard in shards)
            limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
            allowed = "any number of" if limit < 0 else f"{limit / 1e9:.1f}"
            raise ConfigError(
                f"data.cache ram: {error.strerror}: the {split} shards hold {wanted / 1e9:.1f} GB, "
                f"{_available() / 1e9:.1f} GB of memory are free, and this process may lock "
                f"{allowed} GB; raise 'ulimit -l', or set data.cache=null: pages that were read "
                "stay while there is room"
            ) from error


@cache
def _lock(tar: Path) -> mmap.mmap:
    """The tar's pages, locked as long as the process lives."""
    size = tar.stat().st_size
    if size > _available():
        raise OSError(0, "not enough memory")
    with tar.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    address = ctypes.c_void_p(np.frombuffer(pages, np.uint8).ctypes.data)
    if ctypes.CDLL(None, use_errno=True).mlock(address, ctypes.c_size_t(size)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pages


def _available() -> int:
    """Bytes of memory that Linux could free."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("MemAvailable:"))
    return 1024 * int(line.split()[1])


class RegionStore:
    """Regions that this process has read before, as stored, on a device; threads may share it.

    Args:
        limit: bytes of the shards, which are more than those of their regions.
        device: where they lie.

    Raises:
        ConfigError: if it is a GPU without room for them.
    """

    def __init__(self, limit: int, device: torch.device) -> None:
        if device.type == "cuda" and (free := torch.cuda.mem_get_info(device)[0]) < limit:
            raise ConfigError(
                f"data.cache gpu: the training shards hold {limit / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB of the GPU are free; set data.cache=null"
            )
        self.limit = limit
        self.device = device
        self.spans: dict[Place, tuple[int, int]] = {}
        self.used = 1  # the first row stays zero, for padding
        self.rows: Tensor | None = None
        self.lock = threading.Lock()

    @classmethod
    def of(cls, manifest: Manifest, split: str) -> RegionStore:
        """For a split, on this process's GPU.

        Raises:
            ConfigError: if there is none, or no room on it.
        """
        if not torch.cuda.is_available():
            raise ConfigError("data.cache gpu: no GPU here; set data.cache=null")
        limit = sum(shard.bytes for shard in manifest.split(split))
        return cls(limit, torch.device("cuda", torch.cuda.current_device()))

    def take(self, places: Sequence[Place]) -> Tensor | None:
        """The padded regions (B, R, F) of a batch, if all of them are here."""
        spans = [self.spans[place] for place in places if place in self.spans]
        if self.rows is None or len(spans) < len(places):
            return None
        starts, counts = torch.tensor(spans).T[..., None]
        place = torch.arange(int(counts.max()))
        index = torch.where(place < counts, starts + place, 0)
        return self.rows[index.to(self.device)]

    def put(self, places: Sequence[Place], regions: Tensor, mask: Tensor) -> None:
        """Keep those of a batch's regions (B, R, F) that are not here; ``mask`` (B, R)."""
        with self.lock:
            new = [row for row, place in enumerate(places) if place not in self.spans]
            if not new:
                return
            if self.rows is None:
                width = regions.shape[2]
                count = 1 + self.limit // (width * regions.element_size())
                self.rows = torch.zeros(count, width, dtype=regions.dtype, device=self.device)
            kept, counts = regions[new][mask[new]], mask[new].sum(1).tolist()
            self.rows[self.used : self.used + len(kept)] = kept.to(self.device)
            for row, count in zip(new, counts, strict=True):
                self.spans[places[row]] = (self.used, count)
                self.used += count
