"""Features that Ray's workers extract."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from capdist.config.run_config import RayConfig
from capdist.workers.base import PoolError
from capdist.workers.extraction import RayChunks
from shards.extract import ExtractChunk, extract
from shards.extractors import PictureFeatures
from shards.pictures import find_pictures
from tests.support.dying_chunk import DyingChunk
from tests.support.photographs import IDS, QUARTERS, write_photographs
from tests.support.processes import environment


@dataclass(frozen=True)
class Dying:
    """Ray's workers, the first of which is killed within its first chunk."""

    workers: RayChunks
    place: Path

    @property
    def threads(self) -> int:
        return self.workers.threads

    def __call__(
        self, extract_chunk: ExtractChunk, chunks: Sequence[dict[str, Path]]
    ) -> Iterator[list[str]]:
        return self.workers(DyingChunk(**vars(extract_chunk), place=self.place), chunks)


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_lost_worker_changes_no_feature(tmp_path: Path, cluster: Any) -> None:
    photographs = write_photographs(tmp_path / "photographs")
    (photographs / "bad.png").write_bytes(b"damaged")
    features, pictures = PictureFeatures.open(QUARTERS), find_pictures(photographs)
    here = extract(features, pictures, tmp_path / "here", batch=1)
    # A stopped extraction, which continues on Ray.
    some = dict(list(pictures.items())[:2])
    extract(features, some, tmp_path / "there", batch=1)
    workers = Dying(RayChunks(RayConfig(address=cluster.address), 2.0), tmp_path / "killed")
    there = extract(features, pictures, tmp_path / "there", batch=1, run_chunks=workers)
    assert (tmp_path / "killed").exists()
    assert (there.done, len(there.bad)) == (here.done, len(here.bad)) == (len(IDS), 1)
    assert written(tmp_path / "there") == written(tmp_path / "here")


def test_an_address_without_ray_is_reported(tmp_path: Path) -> None:
    features = PictureFeatures.open(QUARTERS)
    workers = RayChunks(RayConfig(address="127.0.0.1:9"))
    pictures = find_pictures(write_photographs(tmp_path / "photographs", IDS[:2]))
    with pytest.raises(PoolError, match=r"^--ray 127\.0\.0\.1:9: cannot connect to Ray \("):
        extract(features, pictures, tmp_path / "out", run_chunks=workers)


def test_sigterm_ends_an_extraction_on_ray_without_a_trace(cluster: Any) -> None:
    code = (
        "import os, signal, sys\n"
        "from capdist.config.run_config import RayConfig\n"
        "from capdist.workers.ray_tasks import connect\n"
        "connect(1, 0, RayConfig(address=sys.argv[1]), '', '')\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    command = [sys.executable, "-c", code, cluster.address]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGTERM
    assert "SIGTERM" not in result.stderr
