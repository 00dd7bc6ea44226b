import json
from pathlib import Path

import pytest

from shards.index import Index, Member, SampleIndex, encode_index, index_path
from shards.manifest import MANIFEST, Manifest
from shards.schema import ShardError, decode, encode
from shards.writer import write
from tests.support.samples import NumberSource, make_sample


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write(NumberSource(), tmp_path, samples_per_shard=3, workers=1)


def test_load_inverts_write(manifest: Manifest) -> None:
    assert Manifest.load(manifest.root) == manifest


def test_offsets_are_those_of_the_members(manifest: Manifest) -> None:
    for i, entry in enumerate(manifest.index(manifest.split("train")[0])):
        data = (manifest.root / "train-00000.tar").read_bytes()
        members = {
            suffix: data[member.offset : member.offset + member.size]
            for suffix, member in entry.members.items()
        }
        assert members == encode(make_sample(i))
        assert data[entry.offset :].startswith(f"{entry.key}.json\0".encode())


def test_read_yields_one_member_of_each_sample(manifest: Manifest) -> None:
    members = list(manifest.read("val", "concepts.json"))
    assert members == [(f"{i:012d}", encode(make_sample(i))["concepts.json"]) for i in (7, 8)]
    assert list(manifest.read("val", "png")) == []


def test_index_lists_optional_members(manifest: Manifest) -> None:
    entry = manifest.index(manifest.split("val")[0])[0]
    data = (manifest.root / "val-00000.tar").read_bytes()
    members = {s: data[m.offset : m.offset + m.size] for s, m in entry.members.items()}
    assert decode(entry.key, members).grounding == make_sample(7).grounding


@pytest.mark.parametrize("samples", [0, 1, 5])
def test_index_inverts_encode_index(samples: int) -> None:
    entries = [
        SampleIndex(f"ü\u2028{n}", n, {"json": Member(n, 2**40 + n, n), "png": Member(0, 0, n)})
        for n in range(samples)
    ]
    data = encode_index(entries)
    assert [row["key"] for row in json.loads(data)] == [entry.key for entry in entries]
    index = Index(Path("a.index.json"), data)
    assert len(index) == samples
    assert list(index) == entries
    assert [index[position - samples] for position in range(samples)] == entries
    for outside in (samples, -samples - 1):
        with pytest.raises(IndexError):
            index[outside]


def test_damaged_line_affects_only_its_sample(manifest: Manifest) -> None:
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
def test_file_that_is_not_an_index_is_refused(data: bytes) -> None:
    message = r"^a.index.json: not an index, expected a list with one line per sample; delete it"
    with pytest.raises(ShardError, match=message):
        Index(Path("a.index.json"), data)


def test_deleted_index_is_built_again(manifest: Manifest) -> None:
    path = index_path(manifest.root / "train-00001.tar")
    data = path.read_bytes()
    path.unlink()
    assert write(NumberSource(), manifest.root, samples_per_shard=3, workers=1) == manifest
    assert path.read_bytes() == data


def test_unknown_split_is_refused(manifest: Manifest) -> None:
    with pytest.raises(ShardError, match="no split 'dev', expected one of train, val"):
        manifest.split("dev")


def test_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no manifest; build shards"):
        Manifest.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["train-00001.tar", "train-00001.index.json"])
def test_missing_file_is_named(manifest: Manifest, name: str) -> None:
    (manifest.root / name).unlink()
    with pytest.raises(ShardError, match=f"{name}: missing"):
        manifest.index(manifest.split("train")[1])


def test_other_schema_version_is_refused(manifest: Manifest) -> None:
    path = manifest.root / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(ShardError, match="schema version 99, expected 3"):
        Manifest.load(manifest.root)
