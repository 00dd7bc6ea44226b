"""Shards behind a URL: the same bytes as in the folder, whatever the server does."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

import shards.remote.cache
from shards.concept_files import ConceptSet, write_concept_file
from shards.manifest import MANIFEST, Manifest
from shards.remote.cache import Cache
from shards.remote.download import Patience, ShardUnavailableError
from shards.schema import SCHEMA_VERSION, ShardError
from shards.verify import verify
from shards.writer import write
from tests.support.servers import Server, serving
from tests.support.shards import TinySource

FIRST = "train-00000.tar"
TRIES = 3


@pytest.fixture
def server(tiny: Manifest) -> Iterator[Server]:
    with serving(tiny.root) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", patience=Patience(TRIES, wait_s=0.01, timeout_s=20))


@pytest.fixture
def hasty(server: Server, cache: Cache) -> Manifest:
    """Waits half a second for an answer."""
    return Manifest.load(server.url, replace(cache, patience=Patience(TRIES, 0.01, 0.5)))


@pytest.fixture
def remote(server: Server, cache: Cache) -> Manifest:
    return Manifest.load(server.url, cache)


def first(manifest: Manifest) -> bytes:
    return manifest.tar(manifest.shards[0]).read_bytes()


def test_a_url_gives_what_the_folder_gives(
    tiny: Manifest, remote: Manifest, server: Server
) -> None:
    assert remote.to_json() == tiny.to_json()
    for split in ("train", "val", "test"):
        assert list(remote.read(split, "json")) == list(tiny.read(split, "json"))
    assert [list(remote.index(s)) for s in remote.shards] == [
        list(tiny.index(s)) for s in tiny.shards
    ]
    once = {shard.name: 1 for shard in tiny.shards}
    assert server.count() == {**once, MANIFEST: 1, "concepts.json": 1}
    assert verify(remote) == []


def test_any_file_system_of_fsspec_will_do(tiny: Manifest, cache: Cache) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(tiny.root), "/set", recursive=True)
    found = Manifest.load("memory://set/", cache)
    assert list(found.read("train", "json")) == list(tiny.read("train", "json"))


def test_concepts_beside_the_tars_come_along(tiny: Manifest, cache: Cache, tmp_path: Path) -> None:
    root = tmp_path / "with"
    shutil.copytree(tiny.root, root)
    files = {
        shard.name: write_concept_file(
            root, shard.name, shard.sha256, {shard.name: (("dog", 0.5),)}
        )
        for shard in tiny.shards
    }
    ConceptSet(root, "detector", {}, 1, files).save()
    with serving(root) as server:
        concepts = Manifest.load(server.url, cache).concepts
        assert concepts is not None
        assert concepts.read(FIRST) == concepts.read(FIRST) == {FIRST: (("dog", 0.5),)}
        assert server.count()[files[FIRST].name] == 1


@pytest.mark.parametrize("faults", [["503", "503"], ["drop"], ["drop", "503"]])
def test_a_faulty_server_is_asked_again(
    tiny: Manifest, remote: Manifest, server: Server, faults: list[str]
) -> None:
    server.faults[FIRST] = list(faults)
    assert first(remote) == first(tiny)
    assert server.count()[FIRST] == len(faults) + 1


def test_a_server_that_falls_silent_is_asked_again(
    tiny: Manifest, hasty: Manifest, server: Server
) -> None:
    server.faults[FIRST] = ["hang"]
    assert first(hasty) == first(tiny)


@pytest.mark.parametrize(
    ("fault", "said"), [("503", "503"), ("drop", "ClientPayloadError"), ("hang", "FSTimeoutError")]
)
def test_a_shard_that_does_not_come_is_lost(
    hasty: Manifest, server: Server, fault: str, said: str
) -> None:
    server.faults[FIRST] = [fault] * TRIES
    with pytest.raises(
        ShardUnavailableError, match=f"{server.url}/{FIRST}: 3 tries failed.*{said}"
    ) as lost:
        first(hasty)
    assert server.count()[FIRST] == TRIES
    # A reader process sends its errors as a class and a text.
    assert isinstance(type(lost.value)(str(lost.value)), ShardError)


def test_a_shard_that_is_not_there_is_lost_at_once(
    tiny: Manifest, cache: Cache, tmp_path: Path
) -> None:
    shutil.copytree(tiny.root, tmp_path / "set")
    (tmp_path / "set" / FIRST).unlink()
    with serving(tmp_path / "set") as server:
        found = Manifest.load(server.url, cache)
        with pytest.raises(
            ShardUnavailableError, match=f"{FIRST}: no such file, though the set lists it"
        ):
            first(found)
        assert server.count()[FIRST] == 1
        with pytest.raises(ShardError, match=f"{server.url}/none/manifest.json: no manifest"):
            Manifest.load(f"{server.url}/none", cache)


def test_what_has_come_is_not_asked_for_again(
    tiny: Manifest, remote: Manifest, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = tiny.shards[0].bytes
    monkeypatch.setattr(shards.remote.cache, "PIECE", size // 3)
    server.faults[FIRST] = ["", "drop", "503", "", "drop"]
    assert first(remote) == first(tiny)
    starts = [int(r[6:].split("-")[0]) for name, r in server.asked if name == FIRST]
    piece = size // 3
    last = [3 * piece] if size % 3 else []
    assert starts == [0, piece, piece, piece, 2 * piece, 2 * piece, *last]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("begun", [b"", b"right", b"wrong", b"long"])
def test_a_begun_file_is_gone_on_with(
    tiny: Manifest, remote: Manifest, server: Server, ranges: bool, begun: bytes
) -> None:
    server.ranges = ranges
    source = remote.shards[0].source
    assert source
    source.cache.folder.mkdir()
    data = {b"right": first(tiny)[:1000], b"long": first(tiny) + b"more"}.get(begun, begun)
    source.copy.with_name(f"{source.copy.name}.part").write_bytes(data)
    assert first(remote) == first(tiny)
    assert [path.name for path in source.cache.folder.iterdir()] == [source.copy.name]


def test_a_set_that_changed_is_read_as_it_is_now(
    tiny: Manifest, cache: Cache, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    shutil.copytree(tiny.root, root)
    with serving(root) as server:
        before = Manifest.load(server.url, cache)
        first(before)
        shutil.rmtree(root)
        other = write(replace(TinySource(), dim=7), root, samples_per_shard=8, workers=1)
        with pytest.raises(ShardUnavailableError) as lost:
            before.tar(before.shards[1])
        assert all(shard.sha256 in str(lost.value) for shard in (before.shards[1], other.shards[1]))
        now = Manifest.load(server.url, cache)
        assert list(now.read("train", "regions.npy")) == list(other.read("train", "regions.npy"))
        assert first(before) == first(tiny)


def test_processes_share_one_download(tiny: Manifest, remote: Manifest, server: Server) -> None:
    server.faults[FIRST] = ["wait"]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map_async(first, [remote] * 4, chunksize=1)
        time.sleep(0.3)  # so that all of them ask, which does not change what must come out
        server.gate.set()
        assert found.get(60) == [first(tiny)] * 4
    assert server.count()[FIRST] == 1


def test_a_process_that_begins_meanwhile_locks_nothing(
    tiny: Manifest, remote: Manifest, server: Server
) -> None:
    server.faults[FIRST] = ["wait"]
    remote.fetch_ahead(remote.shards[:1])
    while not server.count()[FIRST]:
        time.sleep(0.01)
    other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    other.start()  # with every file of this one open
    server.gate.set()
    assert first(remote) == first(tiny)
    other.kill()
    other.join()


def test_after_a_kill_the_download_goes_on(
    tiny: Manifest, remote: Manifest, server: Server, cache: Cache
) -> None:
    size, source = tiny.shards[0].bytes, remote.shards[0].source
    server.faults[FIRST] = ["", "hang"]
    code = f"""
import shards.remote.cache
from pathlib import Path
from shards.manifest import Manifest
shards.remote.cache.PIECE = {size // 2 + 1}
manifest = Manifest.load({server.url!r}, shards.remote.cache.Cache(Path({str(cache.folder)!r})))
manifest.tar(manifest.shards[0])
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while server.count()[FIRST] < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert source
    assert not source.copy.exists()
    assert first(remote) == first(tiny)
    assert server.asked[-1] == (FIRST, f"bytes={size // 2 + 1}-{size - 1}")


def test_the_next_shards_come_ahead(tiny: Manifest, remote: Manifest, server: Server) -> None:
    names = [shard.name for shard in remote.shards[:2]]
    server.faults.update({name: ["wait"] for name in names})
    remote.fetch_ahead(remote.shards[:5])  # more than are fetched at a time
    remote.fetch_ahead(remote.shards[:2])
    server.gate.set()
    for shard in remote.shards[:2]:
        assert remote.tar(shard).read_bytes() == tiny.tar(shard).read_bytes()
    assert server.count() == {MANIFEST: 1, "concepts.json": 1, **dict.fromkeys(names, 1)}


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("../../evil.tar", "0" * 64),
        ("/tmp/evil.tar", "0" * 64),
        ("folder/evil.tar", "0" * 64),
        ("..", "0" * 64),
        ("evil.sh", "0" * 64),
        ("evil.tar\n", "0" * 64),
        ("evil.tar", "../" * 21 + "0"),
    ],
)
def test_a_set_that_would_write_elsewhere_is_refused(
    tiny: Manifest, cache: Cache, tmp_path: Path, name: str, sha256: str
) -> None:
    manifest = tiny.to_json()
    manifest["shards"][0].update(name=name, sha256=sha256)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with serving(tmp_path) as server, pytest.raises(ShardError, match="names a file") as refused:
        Manifest.load(server.url, cache)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<html>", "not JSON"),
        ("[]", "not in the format: all of it: Input should be"),
        (f'{{"schema_version": {SCHEMA_VERSION}}}', "not in the format: name: Field required"),
        ('{"schema_version": 7}', "schema version 7, expected"),
    ],
)
def test_a_file_that_is_no_manifest_is_named(
    cache: Cache, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with (
        serving(tmp_path) as server,
        pytest.raises(ShardError, match=f"{server.url}/{MANIFEST}: {said}"),
    ):
        Manifest.load(server.url, cache)


def test_nothing_is_written_to_a_server(remote: Manifest) -> None:
    with pytest.raises(ShardError, match="copy the set to a folder"):
        _ = remote.folder


def test_a_missing_library_is_named(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ShardError, match=r"s3://none/set/manifest.json.*pip install 'capdist"):
        Manifest.load("s3://none/set", cache)
    with pytest.raises(ShardError, match=r"gopher://none/manifest.json: Protocol not known"):
        Manifest.load("gopher://none", cache)


def test_where_copies_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert Cache().folder == tmp_path / f"capdist-{os.getuid()}"
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert Cache().folder == tmp_path / "own" / "capdist"
