import json
from pathlib import Path

import pytest

from shards.index import Index, Member, SampleIndex, index_path, index_text
from shards.manifest import MANIFEST, Manifest
from shards.schema import ShardError, decode, encode
from shards.writer import write
from tests.support.samples import Numbers, make_sample


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write(Numbers(), tmp_path, samples_per_shard=3, workers=1)


def test_load_gives_what_was_written(manifest: Manifest) -> None:
    assert Manifest.load(manifest.root) == manifest


def test_offsets_lead_to_the_members(manifest: Manifest) -> None:
    for i, entry in enumerate(manifest.index(manifest.split("train")[0])):
        data = (manifest.root / "train-00000.tar").read_bytes()
        members = {
            suffix: data[member.offset : member.offset + member.size]
            for suffix, member in entry.members.items()
        }
        assert members == encode(make_sample(i))
        assert data[entry.offset :].startswith(f"{entry.key}.json\0".encode())


def test_read_gives_one_member_of_a_split(manifest: Manifest) -> None:
    read = list(manifest.read("val", "concepts.json"))
    assert read == [(f"{i:012d}", encode(make_sample(i))["concepts.json"]) for i in (7, 8)]
    assert list(manifest.read("val", "png")) == []


def test_one_index_serves_all_optional_members(manifest: Manifest) -> None:
    entry = manifest.index(manifest.split("val")[0])[0]
    data = (manifest.root / "val-00000.tar").read_bytes()
    members = {s: data[m.offset : m.offset + m.size] for s, m in entry.members.items()}
    assert decode(entry.key, members).grounding == make_sample(7).grounding


@pytest.mark.parametrize("samples", [0, 1, 5])
def test_an_index_is_read_as_it_was_written(samples: int) -> None:
    entries = [
        SampleIndex(f"ü\u2028{n}", n, {"json": Member(n, 2**40 + n, n), "png": Member(0, 0, n)})
        for n in range(samples)
    ]
    data = index_text(entries)
    assert [row["key"] for row in json.loads(data)] == [entry.key for entry in entries]
    index = Index(Path("a.index.json"), data)
    assert len(index) == samples
    assert list(index) == entries
    assert [index[place - samples] for place in range(samples)] == entries
    for outside in (samples, -samples - 1):
        with pytest.raises(IndexError):
            index[outside]


def test_a_damaged_line_is_its_own_samples_only(manifest: Manifest) -> None:
    shard = manifest.split("train")[0]
    path = index_path(manifest.root / shard.name)
    first, second, third = manifest.index(shard)
    path.write_bytes(path.read_bytes().replace(second.key.encode(), b'"'))
    index = manifest.index(shard)
    assert (index[0], index[2]) == (first, third)
    with pytest.raises(
        ShardError, match=r"train-00000\.index\.json: line 3: not JSON .*; delete it"
    ):
        index[1]


@pytest.mark.parametrize(
    "data", [b"", b"[", b"[\n", b"]\n", b"\n\n\n", b"[\n]", b"[{}]\n", b"[\n{}]\n"]
)
def test_a_file_that_is_no_index(data: bytes) -> None:
    message = r"^a.index.json: not a list with a line for every sample; delete it and build"
    with pytest.raises(ShardError, match=message):
        Index(Path("a.index.json"), data)


def test_an_index_that_was_deleted_is_built_again(manifest: Manifest) -> None:
    path = index_path(manifest.root / "train-00001.tar")
    data = path.read_bytes()
    path.unlink()
    assert write(Numbers(), manifest.root, samples_per_shard=3, workers=1) == manifest
    assert path.read_bytes() == data


def test_unknown_split_names_the_known(manifest: Manifest) -> None:
    with pytest.raises(ShardError, match="no split 'dev'; it has train, val"):
        manifest.split("dev")


def test_missing_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no manifest; make the shards"):
        Manifest.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["train-00001.tar", "train-00001.index.json"])
def test_missing_file_is_named(manifest: Manifest, name: str) -> None:
    (manifest.root / name).unlink()
    with pytest.raises(ShardError, match=f"{name}: missing"):
        manifest.index(manifest.split("train")[1])


def test_other_schema_version_is_refused(manifest: Manifest) -> None:
    path = manifest.root / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(ShardError, match="schema version 99, expected 2"):
        Manifest.load(manifest.root)
