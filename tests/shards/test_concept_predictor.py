"""The predictor that a build saves gives new images the concepts that the build gave its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.__main__ import main
from shards.build import BuildConfig, build
from shards.concept_predictor import PREDICTOR, parse_predictor, same_concepts
from shards.manifest import Manifest
from shards.predict_concepts import open_predictor, predict_concepts
from shards.schema import Sample, ShardError, decode
from shards.tar import read_tar
from shards.verify import verify

WORDS = ("dog", "cat", "ball", "street", "child")
TRAIN, NEW = range(24), range(24, 30)


def write_captions(folder: Path, name: str, ids: range, split: str) -> Path:
    images = [
        {
            "filename": f"{n}.jpg",
            "imgid": n,
            "split": split,
            "sentences": [{"raw": "A.", "tokens": ["a", WORDS[n % 5], WORDS[n % 3]]}],
        }
        for n in ids
    ]
    path = folder / name
    path.write_text(json.dumps({"images": images}))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Captions of a set, and of its last images alone; the features of all of them."""
    rng = np.random.default_rng(0)
    feat = rng.integers(-127, 128, (30, 4, 3)).astype(np.int8)
    np.savez(tmp_path / "f.npz", imgid=np.arange(30), feat=feat, scale=np.ones(3, np.float32))
    train = write_captions(tmp_path, "train.json", TRAIN, "train")
    new = write_captions(tmp_path, "new.json", NEW, "test")
    return {"train": str(train), "new": str(new), "features": str(tmp_path / "f.npz")}


@pytest.fixture
def whole(files: dict[str, str], tmp_path: Path) -> Manifest:
    return build_shards(files, tmp_path / "whole", [files["train"], files["new"]])


def build_shards(files: dict[str, str], out: Path, captions: list[str], **options: Any) -> Manifest:
    options = {"concepts_kept": 3, **options}
    config = BuildConfig(captions, files["features"], "net", **options)
    return build(config, out, samples_per_shard=8, workers=1)


def concepts(manifest: Manifest) -> dict[int, Any]:
    """Those of the new images: of the concept files if there are any, else of the tars."""
    found: dict[int, Sample] = {}
    for shard in manifest.split("test"):
        beside = manifest.concepts.read(shard.name) if manifest.concepts else {}
        for entry, members in read_tar(manifest.tar_path(shard)):
            sample = decode(entry.key, members)
            found[sample.image_id] = beside.get(entry.key, sample.concepts)
    return {image: found[image] for image in NEW}


def test_a_build_of_new_images_applies_the_predictor(
    files: dict[str, str], whole: Manifest, tmp_path: Path
) -> None:
    expected = concepts(whole)
    assert all(len(pairs) == 3 for pairs in expected.values())
    new = build_shards(files, tmp_path / "new", [files["new"]], concepts_from=str(whole.root))
    assert concepts(new) == expected
    assert new.concept_source == whole.concept_source == Manifest.load(new.root).concept_source
    again = build_shards(files, tmp_path / "again", [files["new"]], concepts_from=str(new.root))
    assert concepts(again) == expected


def test_new_images_alone_can_not_teach_concepts(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"0 training images are too few .* --concepts-from DIR"):
        build_shards(files, tmp_path / "new", [files["new"]])


def test_the_predictor_of_a_run_is_applied_to_existing_shards(
    files: dict[str, str], whole: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = build_shards(files, tmp_path / "new", [files["new"]], concepts=0)
    run = tmp_path / "run"
    run.mkdir()
    (run / PREDICTOR).write_bytes(open_predictor(str(whole.root)))
    assert main(["concepts", "--run", str(run), "--shards", str(new.root)]) == 0
    assert "3 concepts per image, of detector ridge-" in capsys.readouterr().out
    found = Manifest.load(new.root)
    assert concepts(found) == concepts(whole)
    assert found.concept_source == whole.concept_source
    assert open_predictor(str(new.root)) == open_predictor(str(run))
    assert verify(found, workers=1) == []


@pytest.mark.parametrize("top", [1, 5])
def test_top_chooses_the_number_of_concepts(
    files: dict[str, str], whole: Manifest, tmp_path: Path, top: int
) -> None:
    new = build_shards(files, tmp_path / "new", [files["new"]], concepts=0)
    arguments = ["concepts", "--run", str(whole.root), "--shards", str(new.root)]
    assert main([*arguments, "--top", str(top)]) == 0
    assert all(len(pairs) == top for pairs in concepts(Manifest.load(new.root)).values())
    assert main([*arguments, "--top", "6"]) == 2


def test_fewer_words_than_a_build_keeps_are_all_kept(files: dict[str, str], tmp_path: Path) -> None:
    every = build_shards(files, tmp_path / "all", [files["train"], files["new"]], concepts_kept=49)
    new = build_shards(files, tmp_path / "new", [files["new"]], concepts=0)
    assert main(["concepts", "--run", str(every.root), "--shards", str(new.root)]) == 0
    assert concepts(Manifest.load(new.root)) == concepts(every)


def test_building_older_shards_again_adds_their_predictor(
    files: dict[str, str], whole: Manifest
) -> None:
    expected = open_predictor(str(whole.root))
    assert whole.tar_predictor
    (whole.root / whole.tar_predictor.name).unlink()
    path = whole.root / "manifest.json"
    described = json.loads(path.read_text())
    del described["concept_predictor"]
    path.write_text(json.dumps(described))
    with pytest.raises(ShardError, match=r"no concept predictor.*run the build command"):
        open_predictor(str(whole.root))
    tars = {tar: tar.stat().st_mtime_ns for tar in whole.root.glob("*.tar")}
    build_shards(files, whole.root, [files["train"], files["new"]])
    assert open_predictor(str(whole.root)) == expected
    assert {tar: tar.stat().st_mtime_ns for tar in whole.root.glob("*.tar")} == tars


def test_features_of_another_width_are_refused(
    files: dict[str, str], whole: Manifest, tmp_path: Path
) -> None:
    np.savez(tmp_path / "wide.npz", imgid=NEW, feat=np.ones((6, 4, 5), np.int8), scale=np.ones(5))
    wide = {**files, "features": str(tmp_path / "wide.npz")}
    with pytest.raises(ShardError, match=r"width 5, but the concept predictor .* width 3"):
        build_shards(wide, tmp_path / "new", [files["new"]], concepts_from=str(whole.root))


def test_features_of_another_extractor_are_refused(
    files: dict[str, str], whole: Manifest, tmp_path: Path
) -> None:
    feat = np.random.default_rng(1).integers(100, 128, (6, 4, 3)).astype(np.int8)
    np.savez(tmp_path / "other.npz", imgid=NEW, feat=feat, scale=np.ones(3))
    other = {**files, "features": str(tmp_path / "other.npz")}
    message = "features are distributed differently .* than those that the concept predictor"
    with pytest.raises(ShardError, match=message):
        build_shards(other, tmp_path / "new", [files["new"]], concepts_from=str(whole.root))
    new = build_shards(other, tmp_path / "plain", [files["new"]], concepts=0)
    with pytest.raises(ShardError, match=f"{message}.*, or accept these by --accept-features"):
        predict_concepts(new, str(whole.root), None, workers=1)
    accepted = predict_concepts(new, str(whole.root), None, workers=1, accept_features=True)
    assert "distributed differently" in accepted.made_by["accepted_features"]


def test_damaged_predictors_are_named(whole: Manifest) -> None:
    assert whole.tar_predictor
    path = whole.root / whole.tar_predictor.name
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    for problem in (str(path), "SHA-256 mismatch"):
        assert problem in " ".join(verify(Manifest.load(whole.root), workers=1))
    with pytest.raises(ShardError, match="x: not a concept predictor"):
        parse_predictor("x", data[:-9])
    path.unlink()
    assert f"{path}: missing" in verify(Manifest.load(whole.root), workers=1)[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": np.ones((6, 4))}, "arrays of shapes"),
        ({"kept": 0}, "0 kept"),
        ({"feature_mean": np.zeros(4)}, "statistics of features of another width"),
        ({"feature_mean": np.full(3, np.inf)}, "statistics that are not finite"),
        ({"bias": np.full(5, np.nan)}, "not finite"),
        ({"words": np.array([None] * 5)}, "not a concept predictor"),
    ],
)
def test_hostile_predictors_are_refused(
    whole: Manifest, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    assert whole.tar_predictor
    with np.load(whole.root / whole.tar_predictor.name) as arrays:
        np.savez(tmp_path / "p.npz", **{**arrays, **changed})
    with pytest.raises(ShardError, match=message):
        parse_predictor("x", (tmp_path / "p.npz").read_bytes())


def test_concepts_of_an_unknown_predictor_are_taken_for_those_of_any() -> None:
    assert same_concepts(None, None)
    assert same_concepts("ridge-1", None)
    assert same_concepts("ridge-1", "ridge-1")
    assert not same_concepts("ridge-1", "ridge-2")
    assert not same_concepts("5d0a", None)
    assert not same_concepts("5d0a", "ridge-1")
