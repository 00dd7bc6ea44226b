import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from shards.index import Member, write_index
from shards.manifest import MANIFEST, Manifest
from shards.schema import Sample
from shards.tar import read_tar
from shards.verify import verify
from shards.writer import write
from tests.support.samples import NumberSource


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(NumberSource({"train": 7, "val": 5}), tmp_path, samples_per_shard=4, workers=1)
    return tmp_path


def problems(root: Path) -> list[str]:
    return verify(Manifest.load(root), workers=2)


def change_manifest(root: Path, change: Callable[[dict[str, dict[str, object]]], None]) -> None:
    """Change rows of the manifest, which are given by the shard's name."""
    data = json.loads((root / MANIFEST).read_text())
    change({row["name"]: row for row in data["shards"]})
    (root / MANIFEST).write_text(json.dumps(data))


def flip_bit(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def member(root: Path, shard: str, sample: int, suffix: str) -> Member:
    manifest = Manifest.load(root)
    row = next(row for row in manifest.shards if row.name == shard)
    return manifest.index(row)[sample].members[suffix]


def test_undamaged_folder_has_no_problems(root: Path) -> None:
    assert problems(root) == []


@pytest.mark.parametrize("suffix", ["json", "regions.npy", "concepts.json"])
def test_damaged_member_is_named(root: Path, suffix: str) -> None:
    found = member(root, "train-00001.tar", 1, suffix)
    flip_bit(root / "train-00001.tar", found.offset + found.size - 1)
    hash_problem, damaged = problems(root)
    assert hash_problem.startswith("train-00001.tar: SHA-256 mismatch with the manifest")
    assert f"member 000000000005.{suffix} is damaged" in damaged


def test_damage_outside_the_members_is_found(root: Path) -> None:
    flip_bit(root / "val-00000.tar", 150)
    assert [line.split(":")[0] for line in problems(root)] == ["val-00000.tar"]


def test_truncated_tar_names_every_truncated_sample(root: Path) -> None:
    path = root / "val-00000.tar"
    path.write_bytes(path.read_bytes()[: member(root, path.name, 2, "boxes.npy").offset + 9])
    lines = problems(root)
    assert len(lines) == 3
    assert lines[0].startswith("val-00000.tar: truncated:")
    assert "000000000009.boxes.npy is truncated" in lines[1]
    assert "000000000010.json is truncated" in lines[2]


def test_missing_files_are_named(root: Path) -> None:
    (root / "train-00000.tar").unlink()
    (root / "val-00001.index.json").unlink()
    first, second = problems(root)
    assert "train-00000.tar: missing" in first
    assert "val-00001.index.json: missing" in second


@pytest.mark.parametrize("content", ["{", "[1]", "7", "[\n1\n]\n", '[\n{"key": "a"}\n]\n'])
def test_invalid_index_is_named(root: Path, content: str) -> None:
    (root / "train-00000.index.json").write_text(content)
    (line,) = problems(root)
    assert "train-00000" in line


def test_index_of_another_tar_is_found(root: Path) -> None:
    path = root / "train-00000.index.json"
    *lines, _last_sample, end, empty = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:-1], lines[-1].removesuffix(","), end, empty]))
    assert problems(root) == ["train-00000.tar: does not match its index; build the shard again"]


def rewrite(
    root: Path, shard: str, drop: str | None = None, add: dict[str, bytes] | None = None
) -> None:
    """Write a shard again with other members, with matching index and manifest row."""
    path = root / shard
    kept = [
        (f"{entry.key}.{suffix}", data)
        for entry, members in read_tar(path)
        for suffix, data in ({**members, **(add or {})}).items()
        if f"{entry.key}.{suffix}" != drop
    ]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in kept:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    update_index_and_manifest(root, shard)


def update_index_and_manifest(root: Path, shard: str) -> None:
    """Set index, size and hash to those of the changed tar."""
    path = root / shard
    write_index(path, [entry for entry, _ in read_tar(path)])
    data = path.read_bytes()
    change_manifest(
        root,
        lambda rows: rows[shard].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()),
    )


def test_missing_required_member_is_named(root: Path) -> None:
    rewrite(root, "val-00000.tar", drop="000000000009.boxes.npy")
    (line,) = problems(root)
    assert line.startswith("val-00000.tar: sample 000000000009: member 000000000009.boxes.npy is")


@pytest.mark.parametrize("content", [b"{}", b"[]", b"nonsense"])
def test_samples_that_do_not_decode_are_named(root: Path, content: bytes) -> None:
    rewrite(root, "val-00001.tar", add={"json": content})
    (line,) = problems(root)
    assert "sample 000000000011" in line


def test_other_feature_width_is_found(tmp_path: Path) -> None:
    write(NumberSource({"train": 2}), tmp_path, workers=1)
    data = json.loads((tmp_path / MANIFEST).read_text())
    data["features"]["dim"] = 5
    (tmp_path / MANIFEST).write_text(json.dumps(data))
    lines = problems(tmp_path)
    assert len(lines) == 2
    assert all("regions of width 4, but the manifest says 5" in line for line in lines)


def test_wrong_counts_and_duplicate_keys_are_found(root: Path) -> None:
    def miscount(rows: dict[str, dict[str, object]]) -> None:
        rows["train-00000.tar"].update(samples=9)
        rows["train-00001.tar"].update(captions=1)

    change_manifest(root, miscount)
    for ending in ("tar", "index.json"):
        (root / f"val-00001.{ending}").write_bytes((root / f"val-00000.{ending}").read_bytes())
    change_manifest(root, lambda rows: rows["val-00001.tar"].update(samples=4, captions=8))
    update_index_and_manifest(root, "val-00001.tar")
    assert problems(root) == [
        "train-00000.tar: 4 samples, but the manifest says 9",
        "train-00001.tar: 6 captions, but the manifest says 1",
        *(f"val-00001.tar: key {i:012d} is also in val-00000.tar" for i in range(7, 11)),
    ]


def test_image_ids_of_two_samples_are_found(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Repeated(NumberSource):
        def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
            for sample in super().load(split, ids):
                yield replace(sample, image_id=int(sample.image_id) % 3)

    write(Repeated({"train": 4, "val": 1}), tmp_path, samples_per_shard=4, workers=1)
    assert problems(tmp_path) == [
        "train-00000.tar: sample 000000000003: image 0 is also sample 000000000000",
        "val-00000.tar: sample 000000000004: image 1 is also sample 000000000001 of "
        "train-00000.tar",
    ]


def test_unlisted_tar_is_found(root: Path) -> None:
    (root / "train-00007.tar").write_bytes(b"")
    assert problems(root) == ["train-00007.tar: not in the manifest; remove it"]
