"""Concept files next to the tars: they replace the concepts in the tars; mismatches are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shards.__main__ import main
from shards.concept_files import CONCEPTS, ConceptSet, install_concepts, write_concept_file
from shards.concepts import Concepts
from shards.inspect import find_sample
from shards.manifest import Manifest
from shards.schema import ShardError
from shards.verify import verify
from shards.writer import write
from tests.support.samples import NumberSource, contents


def concepts_of(key: str) -> Concepts:
    return (("bird", 0.75), (f"n{int(key)}", 0.5), ("Hündchen", 0.25))


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write(NumberSource(), tmp_path / "set", samples_per_shard=3, workers=1)


@pytest.fixture
def predicted(manifest: Manifest, tmp_path: Path) -> ConceptSet:
    """The concepts that a run's detector predicted, in the run's folder."""
    root = tmp_path / "run" / "concepts"
    root.mkdir(parents=True)
    files = {}
    for shard in manifest.shards:
        concepts = {entry.key: concepts_of(entry.key) for entry in manifest.index(shard)}
        files[shard.name] = write_concept_file(root, shard.name, shard.sha256, concepts)
    predicted = ConceptSet(root, "d1", {"shards": str(manifest.root)}, 3, files)
    predicted.save()
    return predicted


def test_load_inverts_save(predicted: ConceptSet) -> None:
    assert ConceptSet.load(predicted.root) == predicted


def test_command_installs_concepts_without_changing_the_tars(
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


def test_new_concepts_do_not_overwrite_the_old_files(
    manifest: Manifest, predicted: ConceptSet
) -> None:
    first = install_concepts(predicted, manifest.root, manifest.sha256_by_shard, 1)
    install_concepts(predicted, manifest.root, manifest.sha256_by_shard, None)
    assert first.read("val-00000.tar")["000000000007"] == concepts_of("7")[:1]
    sample, _ = find_sample(manifest.root, None, "000000000007", 0)
    assert sample.concepts == concepts_of("7")


@pytest.mark.parametrize("top", [0, 4])
def test_top_must_be_available(manifest: Manifest, predicted: ConceptSet, top: int) -> None:
    with pytest.raises(
        ShardError, match=f"--top {top}: .* has up to 3 concepts per image; choose 1 to 3"
    ):
        install_concepts(predicted, manifest.root, manifest.sha256_by_shard, top)


def test_concepts_of_other_shards_are_refused(predicted: ConceptSet, tmp_path: Path) -> None:
    other = write(NumberSource({"train": 6}), tmp_path / "other", samples_per_shard=4, workers=1)
    with pytest.raises(
        ShardError, match=r"made for other shards: train-00000\.tar has another SHA"
    ):
        install_concepts(predicted, other.root, other.sha256_by_shard, None)
    assert not (other.root / CONCEPTS).exists()


def test_run_without_concepts_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["concepts", "--run", str(tmp_path)]) == 2
    assert (
        "concepts.json: no such file; expected the folder of a run with a stage 'mil'"
        in capsys.readouterr().err
    )


def test_other_schema_version_is_refused(predicted: ConceptSet) -> None:
    path = predicted.root / CONCEPTS
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 9}))
    with pytest.raises(ShardError, match="schema version 9, expected 3"):
        ConceptSet.load(predicted.root)


def test_verify_finds_damaged_and_missing_files(manifest: Manifest, predicted: ConceptSet) -> None:
    files = install_concepts(predicted, manifest.root, manifest.sha256_by_shard, None).files
    damaged = manifest.root / files["train-00001.tar"].name
    damaged.write_bytes(damaged.read_bytes().replace(b"bird", b"bard"))
    missing = manifest.root / files["val-00000.tar"].name
    missing.unlink()
    loaded = Manifest.load(manifest.root)
    assert verify(loaded, workers=1) == [
        f"{damaged}: SHA-256 mismatch with {CONCEPTS}; predict the concepts again",
        f"{missing}: missing, though {CONCEPTS} lists it; predict the concepts again",
    ]


@pytest.mark.parametrize(
    "pairs", [[["a", 0.5], ["b", 0.75]], [["a", 1.5]]], ids=["ascending", "above 1"]
)
def test_verify_checks_the_scores(
    manifest: Manifest, predicted: ConceptSet, pairs: list[list[object]]
) -> None:
    concepts = {**predicted.read("val-00000.tar"), "000000000008": pairs}
    sha256 = manifest.sha256_by_shard["val-00000.tar"]
    entry = write_concept_file(manifest.root, "val-00000.tar", sha256, concepts)  # type: ignore[arg-type]
    installed = install_concepts(predicted, manifest.root, manifest.sha256_by_shard, None)
    files = {**installed.files, "val-00000.tar": entry}
    ConceptSet(manifest.root, "d1", {}, 3, files).save()
    problems = verify(Manifest.load(manifest.root), workers=1)
    assert len(problems) == 1
    assert "not in [0, 1] in descending order" in problems[0]


def test_verify_finds_missing_samples(manifest: Manifest, predicted: ConceptSet) -> None:
    some = {"000000000007": concepts_of("7")}
    sha256 = manifest.sha256_by_shard["val-00000.tar"]
    entry = write_concept_file(manifest.root, "val-00000.tar", sha256, some)
    installed = install_concepts(predicted, manifest.root, manifest.sha256_by_shard, None)
    files = {**installed.files, "val-00000.tar": entry}
    ConceptSet(manifest.root, "d1", {}, 3, files).save()
    problems = verify(Manifest.load(manifest.root), workers=1)
    assert problems == [
        "val-00000.tar: its concept file lists other samples; predict the concepts again"
    ]
