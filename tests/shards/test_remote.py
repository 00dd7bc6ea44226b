"""Remote shards: the same bytes as in the folder, even if the server fails at times."""

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

import shards.remote.remote_file
from shards.atomic import write_json
from shards.caption_counts import CaptionCounts
from shards.concept_files import ConceptSet, write_concept_file
from shards.count_captions import find_counts
from shards.manifest import MANIFEST, Manifest
from shards.remote.cache import Cache
from shards.remote.download import RetryPolicy, ShardUnavailableError
from shards.schema import SCHEMA_VERSION, ShardError
from shards.verify import verify
from shards.writer import write
from tests.support.faulty_server import Server, serving
from tests.support.shards import TinySource

FIRST = "train-00000.tar"
ATTEMPTS = 3


@pytest.fixture
def server(tiny: Manifest) -> Iterator[Server]:
    with serving(tiny.root) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", retry=RetryPolicy(ATTEMPTS, backoff_s=0.01, timeout_s=20))


@pytest.fixture
def impatient(server: Server, cache: Cache) -> Manifest:
    """A set whose requests time out after half a second."""
    return Manifest.load(server.url, replace(cache, retry=RetryPolicy(ATTEMPTS, 0.01, 0.5)))


@pytest.fixture
def remote(server: Server, cache: Cache) -> Manifest:
    return Manifest.load(server.url, cache)


def first_shard(manifest: Manifest) -> bytes:
    return manifest.tar_path(manifest.shards[0]).read_bytes()


def test_url_gives_the_same_as_the_folder(tiny: Manifest, remote: Manifest, server: Server) -> None:
    assert remote.to_json() == tiny.to_json()
    for split in ("train", "val", "test"):
        assert list(remote.read(split, "json")) == list(tiny.read(split, "json"))
    assert [list(remote.index(s)) for s in remote.shards] == [
        list(tiny.index(s)) for s in tiny.shards
    ]
    once = {shard.name: 1 for shard in tiny.shards}
    assert server.count() == {**once, MANIFEST: 1, "concepts.json": 1}
    assert verify(remote) == []


def test_any_fsspec_file_system_works(tiny: Manifest, cache: Cache) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(tiny.root), "/set", recursive=True)
    found = Manifest.load("memory://set/", cache)
    assert list(found.read("train", "json")) == list(tiny.read("train", "json"))


def test_concept_files_are_downloaded(tiny: Manifest, cache: Cache, tmp_path: Path) -> None:
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


def test_the_concept_predictor_is_downloaded_and_checked(cache: Cache, tmp_path: Path) -> None:
    made = write(TinySource((("train", 2),)), tmp_path / "set", workers=1, predictor=b"its bytes")
    assert made.tar_predictor
    with serving(made.root) as server:
        remote = Manifest.load(server.url, cache)
        assert remote.concept_source == made.concept_source
        assert remote.read_predictor() == remote.read_predictor() == b"its bytes"
        assert server.count()[made.tar_predictor.name] == 1
        (made.root / made.tar_predictor.name).write_bytes(b"others")
        shutil.rmtree(cache.folder)
        with pytest.raises(ShardUnavailableError, match=made.tar_predictor.name):
            Manifest.load(server.url, cache).read_predictor()


def test_counts_of_captions_are_downloaded_in_place_of_the_captions(
    tiny: Manifest, server: Server, cache: Cache
) -> None:
    counts = find_counts(Manifest.load(server.url, cache), "train", cache)
    assert counts
    assert counts.count_words() == CaptionCounts.load(tiny.root / "train.counts.npz").count_words()
    asked = server.count()
    assert asked["train.counts.npz"] == 1
    assert not [name for name in asked if name.endswith(".tar")]


def test_captions_of_a_set_without_counts_are_counted_once(
    tiny: Manifest, cache: Cache, tmp_path: Path
) -> None:
    shutil.copytree(tiny.root, tmp_path / "old")
    write_json(tmp_path / "old" / MANIFEST, replace(tiny, counts=None).to_json())
    with serving(tmp_path / "old") as server:
        first = find_counts(Manifest.load(server.url, cache), "train", cache)
        asked = server.count()
        again = find_counts(Manifest.load(server.url, cache), "train", cache)
        assert first
        assert again
        assert first.count_words() == again.count_words()
        assert {n: c for n, c in server.count().items() if n.endswith(".tar")} == {
            shard.name: asked[shard.name] for shard in tiny.split("train")
        }


@pytest.mark.parametrize("faults", [["503", "503"], ["drop"], ["drop", "503"]])
def test_failed_requests_are_repeated(
    tiny: Manifest, remote: Manifest, server: Server, faults: list[str]
) -> None:
    server.faults[FIRST] = list(faults)
    assert first_shard(remote) == first_shard(tiny)
    assert server.count()[FIRST] == len(faults) + 1


def test_request_is_repeated_after_a_timeout(
    tiny: Manifest, impatient: Manifest, server: Server
) -> None:
    server.faults[FIRST] = ["hang"]
    assert first_shard(impatient) == first_shard(tiny)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("503", "503"), ("drop", "ClientPayloadError"), ("hang", "FSTimeoutError")],
)
def test_shard_is_unavailable_after_all_attempts(
    impatient: Manifest, server: Server, fault: str, reason: str
) -> None:
    server.faults[FIRST] = [fault] * ATTEMPTS
    with pytest.raises(
        ShardUnavailableError, match=f"{server.url}/{FIRST}: 3 attempts failed.*{reason}"
    ) as error:
        first_shard(impatient)
    assert server.count()[FIRST] == ATTEMPTS
    # A reader process sends its errors as a class and a text.
    assert isinstance(type(error.value)(str(error.value)), ShardError)


def test_missing_shard_is_unavailable_at_once(tiny: Manifest, cache: Cache, tmp_path: Path) -> None:
    shutil.copytree(tiny.root, tmp_path / "set")
    (tmp_path / "set" / FIRST).unlink()
    with serving(tmp_path / "set") as server:
        found = Manifest.load(server.url, cache)
        with pytest.raises(
            ShardUnavailableError, match=f"{FIRST}: no such file, though the set lists it"
        ):
            first_shard(found)
        assert server.count()[FIRST] == 1
        with pytest.raises(ShardError, match=f"{server.url}/none/manifest.json: no manifest"):
            Manifest.load(f"{server.url}/none", cache)


def test_received_bytes_are_not_requested_again(
    tiny: Manifest, remote: Manifest, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = tiny.shards[0].bytes
    monkeypatch.setattr(shards.remote.remote_file, "REQUEST_BYTES", size // 3)
    server.faults[FIRST] = ["", "drop", "503", "", "drop"]
    assert first_shard(remote) == first_shard(tiny)
    starts = [int(r[6:].split("-")[0]) for name, r in server.requests if name == FIRST]
    piece = size // 3
    last = [3 * piece] if size % 3 else []
    assert starts == [0, piece, piece, piece, 2 * piece, 2 * piece, *last]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("partial", [b"", b"right", b"wrong", b"long"])
def test_partial_download_continues(
    tiny: Manifest, remote: Manifest, server: Server, ranges: bool, partial: bytes
) -> None:
    server.ranges = ranges
    source = remote.shards[0].remote
    assert source
    source.cache.folder.mkdir()
    data = {b"right": first_shard(tiny)[:1000], b"long": first_shard(tiny) + b"more"}.get(
        partial, partial
    )
    source.copy.with_name(f"{source.copy.name}.part").write_bytes(data)
    assert first_shard(remote) == first_shard(tiny)
    assert [path.name for path in source.cache.folder.iterdir()] == [source.copy.name]


def test_changed_set_needs_its_new_manifest(tiny: Manifest, cache: Cache, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(tiny.root, root)
    with serving(root) as server:
        before = Manifest.load(server.url, cache)
        first_shard(before)
        shutil.rmtree(root)
        other = write(replace(TinySource(), dim=7), root, samples_per_shard=8, workers=1)
        with pytest.raises(ShardUnavailableError) as error:
            before.tar_path(before.shards[1])
        assert before.shards[1].sha256 in str(error.value)
        assert other.shards[1].sha256 in str(error.value)
        now = Manifest.load(server.url, cache)
        assert list(now.read("train", "regions.npy")) == list(other.read("train", "regions.npy"))
        assert first_shard(before) == first_shard(tiny)


def test_processes_share_one_download(tiny: Manifest, remote: Manifest, server: Server) -> None:
    server.faults[FIRST] = ["wait"]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.map_async(first_shard, [remote] * 4, chunksize=1)
        time.sleep(0.3)  # so that all of them wait; the result does not depend on it
        server.gate.set()
        assert results.get(60) == [first_shard(tiny)] * 4
        pool.close()
        pool.join()
    assert server.count()[FIRST] == 1


def test_process_forked_during_a_download_keeps_no_lock(
    tiny: Manifest, remote: Manifest, server: Server
) -> None:
    server.faults[FIRST] = ["wait"]
    remote.prefetch(remote.shards[:1])
    while not server.count()[FIRST]:
        time.sleep(0.01)
    other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    other.start()  # inherits all open files
    server.gate.set()
    assert first_shard(remote) == first_shard(tiny)
    other.kill()
    other.join()


def test_download_continues_after_its_process_is_killed(
    tiny: Manifest, remote: Manifest, server: Server, cache: Cache
) -> None:
    size, source = tiny.shards[0].bytes, remote.shards[0].remote
    server.faults[FIRST] = ["", "hang"]
    code = f"""
import shards.remote.remote_file
from pathlib import Path
from shards.manifest import Manifest
from shards.remote.cache import Cache
shards.remote.remote_file.REQUEST_BYTES = {size // 2 + 1}
manifest = Manifest.load({server.url!r}, Cache(Path({str(cache.folder)!r})))
manifest.tar_path(manifest.shards[0])
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while server.count()[FIRST] < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert source
    assert not source.copy.exists()
    assert first_shard(remote) == first_shard(tiny)
    assert server.requests[-1] == (FIRST, f"bytes={size // 2 + 1}-{size - 1}")


def test_prefetched_shards_are_downloaded_once(
    tiny: Manifest, remote: Manifest, server: Server
) -> None:
    names = [shard.name for shard in remote.shards[:2]]
    server.faults.update({name: ["wait"] for name in names})
    remote.prefetch(remote.shards[:5])  # more than PREFETCH_THREADS
    remote.prefetch(remote.shards[:2])
    server.gate.set()
    for shard in remote.shards[:2]:
        assert remote.tar_path(shard).read_bytes() == tiny.tar_path(shard).read_bytes()
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
def test_set_with_files_in_other_folders_is_refused(
    tiny: Manifest, cache: Cache, tmp_path: Path, name: str, sha256: str
) -> None:
    manifest = tiny.to_json()
    manifest["shards"][0].update(name=name, sha256=sha256)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with serving(tmp_path) as server, pytest.raises(ShardError, match="names a file") as refused:
        Manifest.load(server.url, cache)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<html>", "not JSON"),
        ("[]", "not in the format: top level: Input should be"),
        (f'{{"schema_version": {SCHEMA_VERSION}}}', "not in the format: name: Field required"),
        ('{"schema_version": 7}', "schema version 7, expected"),
    ],
)
def test_invalid_manifest_is_refused(
    cache: Cache, tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with (
        serving(tmp_path) as server,
        pytest.raises(ShardError, match=f"{server.url}/{MANIFEST}: {reason}"),
    ):
        Manifest.load(server.url, cache)


def test_remote_set_has_no_local_folder(remote: Manifest) -> None:
    with pytest.raises(ShardError, match="copy the set to a local folder"):
        _ = remote.local_folder


def test_missing_library_is_named(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ShardError, match=r"s3://none/set/manifest.json.*pip install 'capdist"):
        Manifest.load("s3://none/set", cache)
    with pytest.raises(ShardError, match=r"gopher://none/manifest.json: Protocol not known"):
        Manifest.load("gopher://none", cache)


def test_default_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert Cache().folder == tmp_path / f"capdist-{os.getuid()}"
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert Cache().folder == tmp_path / "own" / "capdist"
