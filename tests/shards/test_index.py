import json
from pathlib import Path

import pytest

from shards.index import MANIFEST, Manifest
from shards.schema import ShardError, decode, encode
from shards.writer import write
from tests.shards.made import Numbers, make_sample


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
