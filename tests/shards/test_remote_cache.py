"""The copies of remote files: their bound, their locks, a full disk, traps in the folder."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import resource
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shards.index import index_path
from shards.manifest import Manifest
from shards.remote.cache import HELD, Cache, Source
from shards.remote.download import Patience
from shards.schema import ShardError
from tests.support.servers import serving

HOUR = 3600 * 10**9


@pytest.fixture
def sources(tiny: Manifest, tmp_path: Path) -> Iterator[list[Source]]:
    """Shards in a cache with room for three."""
    shards = tiny.split("train")[:6]
    largest = sorted(shard.bytes for shard in shards)[-3:]
    patience = Patience(1, wait_s=0.01, timeout_s=1)
    cache = Cache(tmp_path / "cache", sum(largest), patience)
    with serving(tiny.root) as server:
        yield [Source(server.url, s.name, s.sha256, s.bytes, cache) for s in shards]


def fetch(source: Source, hours_ago: int = 0) -> None:
    """Fetch and hold no longer, as a process that has ended; used so long ago."""
    thread = threading.Thread(target=source.fetch)
    thread.start()
    thread.join()
    taken = source.copy.stat().st_mtime_ns - hours_ago * HOUR
    os.utime(source.copy, ns=(taken, taken))


def there(sources: list[Source]) -> list[int]:
    return [number for number, source in enumerate(sources) if source.copy.exists()]


def test_those_used_longest_ago_go_first(sources: list[Source]) -> None:
    for number, hours_ago in enumerate((2, 3, 1)):
        fetch(sources[number], hours_ago)
    index_path(sources[1].copy).write_text("[]")
    fetch(sources[3])
    assert there(sources) == [0, 2, 3]
    assert not index_path(sources[1].copy).exists()
    fetch(sources[0])  # used again
    fetch(sources[4])
    assert there(sources) == [0, 3, 4]
    taken = sum(path.stat().st_size for path in sources[0].cache.folder.iterdir())
    assert taken <= sources[0].cache.size


def test_what_was_asked_for_a_moment_ago_stays(sources: list[Source]) -> None:
    small = [replace(s, cache=replace(s.cache, size=s.size or 0)) for s in sources]
    for source in small[:HELD]:
        source.fetch()
    assert there(small) == list(range(HELD))  # though there is room for one
    with small[0].copy.open("rb") as file:
        small[HELD].fetch()
        fetch(small[HELD + 1])
        assert 0 not in there(small)
        assert len(file.read()) == small[0].size
    assert small[0].fetch().stat().st_size == small[0].size


def test_what_killed_processes_left_makes_room(sources: list[Source]) -> None:
    folder = sources[0].cache.folder
    folder.mkdir()
    left = folder / f"{'0' * 32}-train-00000.tar.part"
    left.write_bytes(bytes(sources[0].cache.size))
    (folder / "not ours").write_bytes(bytes(100))
    fetch(sources[0])
    assert sorted(path.name for path in folder.iterdir()) == [sources[0].copy.name, "not ours"]


def test_a_shard_larger_than_the_cache_is_refused(sources: list[Source]) -> None:
    source = replace(sources[0], cache=replace(sources[0].cache, size=1000))
    with pytest.raises(ShardError, match=r"more than the 1000 of the whole cache.*cache_bytes"):
        source.fetch()


def limited(source: Source) -> str:
    """What is said where the system refuses larger files, as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        source.fetch()
    except ShardError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_a_full_disk_is_one_line(sources: list[Source]) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        said = pool.apply(limited, (sources[0],))
    folder = sources[0].cache.folder
    assert said.startswith(f"ShardError: {folder}: no copy written, with ")
    assert "MB free on its disk" in said
    assert "data.cache_dir" in said
    assert sum(path.stat().st_size for path in folder.iterdir()) == 0
    fetch(sources[0])


def test_a_folder_that_is_none_is_named(sources: list[Source], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = replace(sources[0], cache=Cache(tmp_path / "file" / "cache"))
    with pytest.raises(ShardError, match="file/cache: no copy written"):
        source.fetch()


@pytest.mark.parametrize("ending", ["", ".part"])
def test_a_link_in_the_folder_is_not_followed(
    sources: list[Source], tmp_path: Path, ending: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    sources[0].cache.folder.mkdir()
    sources[0].copy.with_name(sources[0].copy.name + ending).symlink_to(outside)
    with pytest.raises(ShardError, match="symbolic links"):
        sources[0].fetch()
    assert outside.read_text() == "precious"


def test_a_writer_that_has_stopped_is_not_waited_for(sources: list[Source]) -> None:
    patience = Patience(1, wait_s=0.01, timeout_s=0.05)
    source = replace(sources[0], cache=replace(sources[0].cache, patience=patience))
    source.cache.folder.mkdir()
    with source.copy.with_name(f"{source.copy.name}.part").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ShardError, match=r"\.part: the process that writes it has stopped"):
            source.fetch()


def test_the_default_folder_is_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = os.getuid()
    monkeypatch.setattr("shards.remote.cache.default_folder", lambda: tmp_path / "copies")
    with Cache(tmp_path / "copies").writing():
        pass
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with (
        pytest.raises(ShardError, match="copies: made by another user"),
        Cache(tmp_path / "copies").writing(),
    ):
        pass
