"""Training data kept resident: the tars in the node's page cache, or the regions on the GPU.

Reading from the page cache is a single copy into the batch, and all ranks of a node share the
cache. But the system may evict its pages, so ``data.resident: ram`` locks those of the tars. They
are locked once per node, for every reader, until the process ends.
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
from capdist.data.rank_plan import SampleRef
from shards.feature_sets import FeatureSet
from shards.manifest import Manifest


def lock_pages(manifest: Manifest, split: str) -> None:
    """Read all tars of a split into the page cache and lock them there.

    Raises:
        ConfigError: if they do not fit, or the process may not lock as much.
    """
    shards = [found.tar_of(s) for found in _tar_sets(manifest) for s in manifest.split(split)]
    for shard in shards:
        try:
            _lock(manifest.tar_path(shard))
        except OSError as error:
            needed = sum(shard.bytes for shard in shards)
            limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
            allowed = "any number of" if limit < 0 else f"{limit / 1e9:.1f}"
            raise ConfigError(
                f"data.resident ram: {error.strerror}: the {split} shards take "
                f"{needed / 1e9:.1f} GB, {_available_memory() / 1e9:.1f} GB of memory are free, "
                f"and this process may lock {allowed} GB; raise 'ulimit -l', or set "
                "data.resident=null: pages that were read stay cached while there is room"
            ) from error


def _tar_sets(manifest: Manifest) -> list[FeatureSet]:
    """Of the folder's own set, whose tars have the captions, and of further ones that are read."""
    own, *_ = manifest.feature_sets
    return [own, *(found for found in manifest.chosen_sets if found.tars is not None)]


@cache
def _lock(tar: Path) -> mmap.mmap:
    """The tar's pages, locked until the process ends."""
    size = tar.stat().st_size
    if size > _available_memory():
        raise OSError(0, "not enough memory")
    with tar.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    address = ctypes.c_void_p(np.frombuffer(pages, np.uint8).ctypes.data)
    if ctypes.CDLL(None, use_errno=True).mlock(address, ctypes.c_size_t(size)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pages


def _available_memory() -> int:
    """Bytes of memory that Linux could make available."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("MemAvailable:"))
    return 1024 * int(line.split()[1])


def batch_bytes(manifest: Manifest, split: str) -> int:
    """An upper bound on the bytes that a split's regions have in batches, all of one width."""
    sets = manifest.chosen_sets
    width = max(found.spec.dim for found in sets)
    itemsize = 4 if any(found.spec.scale for found in sets) else 2
    regions = sum(
        found.tar_of(shard).bytes // (found.spec.dim * (1 if found.spec.scale else 2))
        for found in sets
        for shard in manifest.split(split)
    )
    return regions * width * itemsize


class ResidentRegions:
    """Regions that this process has read before, as stored, on a device; threads may share it.

    Args:
        limit: an upper bound on the bytes of all regions, as they are in batches.
        device: that keeps them.

    Raises:
        ConfigError: if the device is a GPU with too little free memory.
    """

    def __init__(self, limit: int, device: torch.device) -> None:
        if device.type == "cuda" and (free := torch.cuda.mem_get_info(device)[0]) < limit:
            raise ConfigError(
                f"data.resident gpu: the training shards take {limit / 1e9:.1f} GB, but "
                f"{free / 1e9:.1f} GB of the GPU are free; set data.resident=null"
            )
        self.limit = limit
        self.device = device
        self.spans: dict[SampleRef, tuple[int, int]] = {}
        self.used = 1  # row 0 stays zero, for padding
        self.rows: Tensor | None = None
        self.lock = threading.Lock()

    @classmethod
    def of(cls, manifest: Manifest, split: str) -> ResidentRegions:
        """Empty, for a split's regions on this process's GPU.

        Raises:
            ConfigError: if there is no GPU, or too little memory on it.
        """
        if not torch.cuda.is_available():
            raise ConfigError("data.resident gpu: this machine has no GPU; set data.resident=null")
        return cls(batch_bytes(manifest, split), torch.device("cuda", torch.cuda.current_device()))

    def get(self, refs: Sequence[SampleRef]) -> Tensor | None:
        """The padded regions (B, R, F) of a batch, or None if any are missing."""
        spans = [self.spans[ref] for ref in refs if ref in self.spans]
        if self.rows is None or len(spans) < len(refs):
            return None
        starts, counts = torch.tensor(spans).T[..., None]
        offset = torch.arange(int(counts.max()))
        index = torch.where(offset < counts, starts + offset, 0)
        return self.rows[index.to(self.device)]

    def put(self, refs: Sequence[SampleRef], regions: Tensor, mask: Tensor) -> None:
        """Keep a batch's regions (B, R, F), real where ``mask`` (B, R), unless kept already."""
        with self.lock:
            new = [row for row, ref in enumerate(refs) if ref not in self.spans]
            if not new:
                return
            if self.rows is None:
                width = regions.shape[2]
                count = 1 + self.limit // (width * regions.element_size())
                self.rows = torch.zeros(count, width, dtype=regions.dtype, device=self.device)
            kept, counts = regions[new][mask[new]], mask[new].sum(1).tolist()
            self.rows[self.used : self.used + len(kept)] = kept.to(self.device)
            for row, count in zip(new, counts, strict=True):
                self.spans[refs[row]] = (self.used, count)
                self.used += count
