"""Two processes never write into one folder of shards or features at once."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from capdist.errors import CapdistError
from shards.extract import extract
from shards.extractors import PictureFeatures
from shards.file_hash import update_with_files
from shards.folder_lock import LOCK, OWNER, folder_lock
from shards.pictures import find_pictures
from shards.schema import Sample
from shards.write_set import write_set
from shards.writer import write
from tests.support.photographs import QUARTERS, write_photographs
from tests.support.samples import NumberSource, contents
from tests.support.shards import GridSource, TinySource


class WaitingSource(NumberSource):
    """Waits after each sample until the working folder has a file named go."""

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            yield sample
            while not Path("go").exists():
                time.sleep(0.01)


def write_waiting(root: Path) -> None:
    write(WaitingSource(), root, samples_per_shard=3, workers=1)


@pytest.mark.parametrize("killed", [False, True])
def test_a_build_is_kept_out_while_another_writes(
    killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "set"
    process = multiprocessing.get_context("fork").Process(target=write_waiting, args=(root,))
    process.start()
    while not list(root.glob(".train-00000.tar.*.tmp")):
        time.sleep(0.01)
    with pytest.raises(CapdistError, match=f"set: process {process.pid} on .* is writing to it"):
        write(NumberSource(), root, samples_per_shard=3, workers=1)
    if killed:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        write(NumberSource(), root, samples_per_shard=3, workers=1)
    else:
        Path("go").touch()
        process.join()
        assert process.exitcode == 0
    write(NumberSource(), tmp_path / "alone", samples_per_shard=3, workers=1)
    assert contents(root) == contents(tmp_path / "alone")


def test_additions_and_extractions_are_kept_out(tmp_path: Path) -> None:
    shards, features = tmp_path / "shards", tmp_path / "features"
    write(TinySource(), shards, samples_per_shard=20, workers=1)
    pictures = find_pictures(write_photographs(tmp_path / "photographs"))
    features.mkdir()
    use: list[tuple[Path, Callable[[], object]]] = [
        (shards, lambda: write_set(shards, GridSource(), workers=1)),
        (features, lambda: extract(PictureFeatures.open(QUARTERS), pictures, features)),
    ]
    for folder, writes in use:
        before = contents(folder)
        with folder_lock(folder, "writing to", "wait"):
            with pytest.raises(CapdistError, match=f"process {os.getpid()} on .* is writing to it"):
                writes()
            assert contents(folder).keys() - before.keys() <= {LOCK, OWNER}
        writes()


def test_a_lock_is_no_content(tmp_path: Path) -> None:
    """A build from a folder of features continues after a further extraction into it."""
    (tmp_path / "1.npz").write_bytes(b"features")
    without, during = hashlib.sha256(), hashlib.sha256()
    update_with_files(without, [tmp_path])
    with folder_lock(tmp_path, "writing to", "wait"):
        update_with_files(during, [tmp_path])
    assert during.digest() == without.digest()
