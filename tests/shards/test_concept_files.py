"""Concepts beside the tars: what every reader sees, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shards.__main__ import main
from shards.concept_files import CONCEPTS, ConceptSet, install, write_concept_file
from shards.concepts import Concepts
from shards.inspect import find
from shards.manifest import Manifest
from shards.schema import ShardError
from shards.verify import verify
from shards.writer import write
from tests.support.samples import Numbers


def concepts_of(key: str) -> Concepts:
    return (("bird", 0.75), (f"n{int(key)}", 0.5), ("Hündchen", 0.25))


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write(Numbers(), tmp_path / "set", samples_per_shard=3, workers=1)


@pytest.fixture
def predicted(manifest: Manifest, tmp_path: Path) -> ConceptSet:
    """What a run's detector said of all samples, in the run's folder."""
    root = tmp_path / "run" / "concepts"
    root.mkdir(parents=True)
    files = {}
    for shard in manifest.shards:
        found = {entry.key: concepts_of(entry.key) for entry in manifest.index(shard)}
        files[shard.name] = write_concept_file(root, shard.name, shard.sha256, found)
    made = ConceptSet(root, "d1", {"shards": str(manifest.root)}, 3, files)
    made.save()
    return made


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_load_gives_what_was_saved(predicted: ConceptSet) -> None:
    assert ConceptSet.load(predicted.root) == predicted


def test_every_reader_takes_them_and_the_tars_stay(
    manifest: Manifest, predicted: ConceptSet, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(manifest.root)
    assert main(["concepts", "--run", str(predicted.root.parent), "--top", "2"]) == 0
    after = contents(manifest.root)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + len(manifest.shards) + 1
    capsys.readouterr()
    assert main(["inspect", str(manifest.root), "--split", "val"]) == 0
    assert "concepts: 2: bird 0.75, n7 0.50\n" in capsys.readouterr().out
    assert main(["inspect", str(manifest.root / "train-00001.tar")]) == 0
    assert "concepts: 2: bird 0.75, n3 0.50\n" in capsys.readouterr().out
    assert verify(Manifest.load(manifest.root)) == []


def test_new_concepts_leave_the_files_of_the_old_ones(
    manifest: Manifest, predicted: ConceptSet
) -> None:
    first = install(predicted, manifest.root, manifest.tars, 1)
    install(predicted, manifest.root, manifest.tars, None)
    assert first.read("val-00000.tar")["000000000007"] == concepts_of("7")[:1]
    found, _ = find(manifest.root, None, "000000000007", 0)
    assert found.concepts == concepts_of("7")


@pytest.mark.parametrize("top", [0, 4])
def test_more_than_there_are_can_not_be_kept(
    manifest: Manifest, predicted: ConceptSet, top: int
) -> None:
    with pytest.raises(ShardError, match=f"--top {top}: .* has 1 to 3 concepts of an image"):
        install(predicted, manifest.root, manifest.tars, top)


def test_concepts_of_other_shards_are_refused(predicted: ConceptSet, tmp_path: Path) -> None:
    other = write(Numbers({"train": 6}), tmp_path / "other", samples_per_shard=4, workers=1)
    with pytest.raises(ShardError, match=r"not the concepts of this train-00000\.tar; predict"):
        install(predicted, other.root, other.tars, None)
    assert not (other.root / CONCEPTS).exists()


def test_a_run_without_concepts_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["concepts", "--run", str(tmp_path)]) == 2
    assert "concepts.json: no such file; a run with a stage mil" in capsys.readouterr().err


def test_another_schema_version_is_refused(predicted: ConceptSet) -> None:
    path = predicted.root / CONCEPTS
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 9}))
    with pytest.raises(ShardError, match="schema version 9, expected 2"):
        ConceptSet.load(predicted.root)


def test_damage_is_named(manifest: Manifest, predicted: ConceptSet) -> None:
    files = install(predicted, manifest.root, manifest.tars, None).files
    flipped = manifest.root / files["train-00001.tar"].name
    flipped.write_bytes(flipped.read_bytes().replace(b"bird", b"bard"))
    lost = manifest.root / files["val-00000.tar"].name
    lost.unlink()
    loaded = Manifest.load(manifest.root)
    assert verify(loaded, workers=1) == [
        f"{flipped}: another SHA-256 than in {CONCEPTS}; write the concepts again",
        f"{lost}: missing, though {CONCEPTS} names it; write the concepts again",
    ]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([["a", 0.5], ["b", 0.75]], "not in 0..1, best first"),
        ([["a", 1.5]], "not in 0..1, best first"),
    ],
)
def test_verify_reads_the_concepts(
    manifest: Manifest, predicted: ConceptSet, pairs: list[list[object]], message: str
) -> None:
    found = {**predicted.read("val-00000.tar"), "000000000008": pairs}
    sha256 = manifest.tars["val-00000.tar"]
    entry = write_concept_file(manifest.root, "val-00000.tar", sha256, found)  # type: ignore[arg-type]
    files = {**install(predicted, manifest.root, manifest.tars, None).files, "val-00000.tar": entry}
    ConceptSet(manifest.root, "d1", {}, 3, files).save()
    problems = verify(Manifest.load(manifest.root), workers=1)
    assert len(problems) == 1
    assert message in problems[0]


def test_verify_misses_no_sample(manifest: Manifest, predicted: ConceptSet) -> None:
    some = {"000000000007": concepts_of("7")}
    sha256 = manifest.tars["val-00000.tar"]
    entry = write_concept_file(manifest.root, "val-00000.tar", sha256, some)
    files = {**install(predicted, manifest.root, manifest.tars, None).files, "val-00000.tar": entry}
    ConceptSet(manifest.root, "d1", {}, 3, files).save()
    problems = verify(Manifest.load(manifest.root), workers=1)
    assert problems == ["val-00000.tar: its concepts are of other samples; predict them anew"]
