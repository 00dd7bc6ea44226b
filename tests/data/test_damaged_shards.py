"""Damaged, missing and foreign shards are named, sample by sample, and nothing else is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shards.index import index_path
from shards.manifest import Manifest
from shards.schema import ShardError
from shards.writer import write
from tests.support.readers import batches, keys
from tests.support.shards import GroundedSource, damaged, with_concepts


def lost(manifest: Manifest, reader: str, workers: int = 0) -> tuple[list[str], list[list[str]]]:
    """What an epoch says of lost samples, and the keys of its steps."""
    said, found = [], []
    for step in batches(manifest, reader, workers=workers).steps(0):
        said += map(str, step.errors)
        found.append([key for batch in step.batches for key in batch.keys])
    return said, found


def without(whole: list[list[str]], gone: set[str]) -> list[list[str]]:
    return [[key for key in step if key not in gone] for step in whole]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_truncated_tar_is_named(
    tiny: Manifest, tmp_path: Path, reader: str, part: float, workers: int
) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    end = int(tar.stat().st_size * part)
    tar.write_bytes(tar.read_bytes()[:end])
    gone = {
        entry.key
        for entry in manifest.index(manifest.split("train")[2])
        if max(member.offset + member.size for member in entry.members.values()) > end
    }
    said, found = lost(manifest, reader, workers)
    assert found == without(keys(tiny), gone)
    assert {line.split("sample ")[1].split(":")[0] for line in said} == gone
    assert len(said) == len(gone)
    assert all(tar.name in line for line in said)
    if gone:
        with pytest.raises(ShardError, match=tar.name):
            keys(manifest, reader=reader)


@pytest.mark.parametrize("suffix", ["regions.npy", "boxes.npy", "json", "concepts.json"])
def test_a_flipped_bit_is_named(tiny: Manifest, tmp_path: Path, reader: str, suffix: str) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    entry = manifest.index(manifest.split("train")[2])[1]
    data, member = bytearray(tar.read_bytes()), entry.members[suffix]
    data[member.offset + member.size - 1] ^= 1
    tar.write_bytes(data)
    said, found = lost(manifest, reader)
    (line,) = said
    assert f"{tar}: sample {entry.key}: {suffix}: checksum mismatch" in line
    assert found == without(keys(tiny), {entry.key})


def test_a_tar_of_another_build_is_refused(tiny: Manifest, tmp_path: Path, reader: str) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    shutil.copy(manifest.root / manifest.split("train")[1].name, tar)
    said, _ = lost(manifest, reader)
    assert len(said) == 8
    assert all(tar.name in line for line in said)


def test_a_duplicate_member_is_named(tiny: Manifest, tmp_path: Path, reader: str) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    second = manifest.index(manifest.split("train")[2])[0].members["regions.npy"].offset - 512
    data = tar.read_bytes()
    tar.write_bytes(data[:second] + data)
    said, _ = lost(manifest, reader)
    assert len(said) == 8
    assert all(tar.name in line for line in said)


def test_an_index_with_too_large_sizes_is_refused(
    tiny: Manifest, tmp_path: Path, reader: str
) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    path = index_path(tar)
    index = json.loads(path.read_text())
    index[1]["members"]["regions.npy"][1] = 2**62
    path.write_text("\n".join(["[", ",\n".join(map(json.dumps, index)), "]", ""]))
    said, found = lost(manifest, reader)
    (line,) = said
    assert f"{tar}: sample {index[1]['key']}: " in line
    assert found == without(keys(tiny), {index[1]["key"]})


def test_a_tar_name_is_never_run_as_a_command(
    tiny: Manifest, tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny.root, tmp_path / "pipe:mkdir ran; cat shards")
    monkeypatch.chdir(tmp_path)
    manifest = Manifest.load("pipe:mkdir ran; cat shards")
    assert keys(manifest, reader=reader) == keys(tiny)
    assert not Path("ran").exists()


def test_a_tar_deleted_while_training_is_named(tiny: Manifest, tmp_path: Path, reader: str) -> None:
    manifest, _ = damaged(tiny, tmp_path)
    read = batches(manifest, reader, grounding=False)
    steps = read.steps(0)
    next(steps)
    for shard in manifest.shards:
        manifest.tar_path(shard).unlink()
    rest = list(steps)
    assert len(rest) == read.plan.steps - 1
    # What was open is read on; the next epoch names all that it opens.
    said = [str(e) for step in batches(manifest, reader).steps(1) for e in step.errors]
    assert len(said) == 53
    assert all(".tar: sample number" in line and "missing" in line for line in said)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_tar_truncated_while_training_is_named(
    tiny: Manifest, tmp_path: Path, epochs: int
) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    read = batches(manifest)
    whole = keys(tiny)
    for _ in range(epochs):  # everything is known, and open; from the second one on, rows are made
        assert len(list(read.epoch(0))) == len(whole)
    entry = manifest.index(manifest.split("train")[2])[-1]
    with tar.open("r+b") as file:
        file.truncate(entry.members["regions.npy"].offset + 3)
    (line,) = [str(error) for step in read.steps(0) for error in step.errors]
    assert f"{tar}: sample {entry.key}: the tar is truncated" in line


def test_an_index_of_another_tar_is_refused(tiny: Manifest, tmp_path: Path, reader: str) -> None:
    manifest, tar = damaged(tiny, tmp_path)
    small = manifest.split("train")[-1].name
    shutil.copy(
        manifest.root / small.replace(".tar", ".index.json"), tar.with_suffix(".index.json")
    )
    with pytest.raises(ShardError, match=f"{tar.name}: .*lists 5 samples, expected 8"):
        keys(manifest, reader=reader)


def test_a_sample_without_listed_concepts_is_named(
    tiny: Manifest, tmp_path: Path, reader: str
) -> None:
    manifest = with_concepts(tiny, tmp_path, lost=f"{20:012d}")
    with pytest.raises(ShardError, match=f"sample {20:012d}: the concept file of its tar"):
        keys(manifest, reader=reader)


def test_a_batch_of_damaged_samples_is_empty(tmp_path: Path) -> None:
    class Few(GroundedSource):
        sizes = (("train", 1), ("val", 1))

    manifest = write(Few(sizes=(("train", 1), ("val", 1))), tmp_path, workers=1)
    read = batches(manifest)
    tar = manifest.tar_path(manifest.split("train")[0])
    tar.write_bytes(b"\0" * tar.stat().st_size)
    (step,) = read.steps(0)
    assert len(step.errors) == 1
    assert step.batches[0].keys == ()
    assert step.batches[0].token_count == 0
