"""The cache of remote files: its size, its locks, a full disk, symbolic links in its folder."""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shards.index import index_path
from shards.manifest import Manifest
from shards.remote.cache import Cache
from shards.remote.download import RetryPolicy
from shards.remote.locks import LOCKED_PER_THREAD
from shards.remote.remote_file import RemoteFile
from shards.schema import ShardError
from tests.support.faulty_server import serving

HOUR_NS = 3600 * 10**9


@pytest.fixture
def files(tiny: Manifest, tmp_path: Path) -> Iterator[list[RemoteFile]]:
    """Remote shards, with a cache that has room for three."""
    shards = tiny.split("train")[:6]
    largest = sorted(shard.bytes for shard in shards)[-3:]
    retry = RetryPolicy(1, backoff_s=0.01, timeout_s=1)
    cache = Cache(tmp_path / "cache", sum(largest), retry)
    with serving(tiny.root) as server:
        yield [RemoteFile(server.url, s.name, s.sha256, s.bytes, cache) for s in shards]


def fetch(file: RemoteFile, hours_ago: int = 0) -> None:
    """Fetch without keeping a lock, as a process that has ended; last used ``hours_ago``."""
    thread = threading.Thread(target=file.fetch)
    thread.start()
    thread.join()
    used_ns = file.copy.stat().st_mtime_ns - hours_ago * HOUR_NS
    os.utime(file.copy, ns=(used_ns, used_ns))


def cached(files: list[RemoteFile]) -> list[int]:
    return [number for number, file in enumerate(files) if file.copy.exists()]


def test_least_recently_used_copies_are_evicted_first(files: list[RemoteFile]) -> None:
    for number, hours_ago in enumerate((2, 3, 1)):
        fetch(files[number], hours_ago)
    index_path(files[1].copy).write_text("[]")
    fetch(files[3])
    assert cached(files) == [0, 2, 3]
    assert not index_path(files[1].copy).exists()
    fetch(files[0])  # used again
    fetch(files[4])
    assert cached(files) == [0, 3, 4]
    total = sum(path.stat().st_size for path in files[0].cache.folder.iterdir())
    assert total <= files[0].cache.size


def test_recently_fetched_copies_stay(files: list[RemoteFile]) -> None:
    small = [replace(f, cache=replace(f.cache, size=f.size or 0)) for f in files]
    for file in small[:LOCKED_PER_THREAD]:
        file.fetch()
    assert cached(small) == list(range(LOCKED_PER_THREAD))  # though there is room for one
    with small[0].copy.open("rb") as opened:
        small[LOCKED_PER_THREAD].fetch()
        fetch(small[LOCKED_PER_THREAD + 1])
        assert 0 not in cached(small)
        assert len(opened.read()) == small[0].size
    assert small[0].fetch().stat().st_size == small[0].size


def test_partial_files_of_killed_processes_are_evicted(files: list[RemoteFile]) -> None:
    folder = files[0].cache.folder
    folder.mkdir()
    partial = folder / f"{'0' * 32}-train-00000.tar.part"
    partial.write_bytes(bytes(files[0].cache.size))
    (folder / "not ours").write_bytes(bytes(100))
    fetch(files[0])
    assert sorted(path.name for path in folder.iterdir()) == [files[0].copy.name, "not ours"]


def test_shard_larger_than_the_cache_is_refused(files: list[RemoteFile]) -> None:
    file = replace(files[0], cache=replace(files[0].cache, size=1000))
    with pytest.raises(ShardError, match=r"the whole cache may take 1000; raise data\.cache_bytes"):
        file.fetch()


def error_with_small_files_only(file: RemoteFile) -> str:
    """The error if the system refuses larger files, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        file.fetch()
    except ShardError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return ""


def test_full_disk_is_one_line(files: list[RemoteFile]) -> None:
    message = error_with_small_files_only(files[0])
    folder = files[0].cache.folder
    assert message.startswith(f"ShardError: {folder}: can't write a copy, with ")
    assert "MB free on its disk" in message
    assert "data.cache_dir" in message
    assert sum(path.stat().st_size for path in folder.iterdir()) == 0
    fetch(files[0])


def test_unusable_cache_folder_is_named(files: list[RemoteFile], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = replace(files[0], cache=Cache(tmp_path / "file" / "cache"))
    with pytest.raises(ShardError, match="file/cache: can't write a copy"):
        file.fetch()


@pytest.mark.parametrize("ending", ["", ".part"])
def test_symbolic_link_in_the_cache_is_not_followed(
    files: list[RemoteFile], tmp_path: Path, ending: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    files[0].cache.folder.mkdir()
    files[0].copy.with_name(files[0].copy.name + ending).symlink_to(outside)
    with pytest.raises(ShardError, match="symbolic links"):
        files[0].fetch()
    assert outside.read_text() == "precious"


def test_wait_for_a_stopped_download_ends(files: list[RemoteFile]) -> None:
    retry = RetryPolicy(1, backoff_s=0.01, timeout_s=0.05)
    file = replace(files[0], cache=replace(files[0].cache, retry=retry))
    file.cache.folder.mkdir()
    with file.copy.with_name(f"{file.copy.name}.part").open("wb") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        with pytest.raises(ShardError, match=r"\.part: the process that downloads it has written"):
            file.fetch()


def test_default_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_id = os.getuid()
    monkeypatch.setattr("shards.remote.cache.default_folder", lambda: tmp_path / "copies")
    with Cache(tmp_path / "copies").open_for_writing():
        pass
    monkeypatch.setattr(os, "getuid", lambda: own_id + 1)
    with (
        pytest.raises(ShardError, match="copies: belongs to another user"),
        Cache(tmp_path / "copies").open_for_writing(),
    ):
        pass
