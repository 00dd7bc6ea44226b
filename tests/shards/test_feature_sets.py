"""Further feature sets: built, added, described, verified; damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shards.__main__ import main
from shards.feature_sets import FeatureSet
from shards.manifest import MANIFEST, Manifest
from shards.schema import ShardError
from shards.verify import verify
from shards.write_set import write_set
from shards.writer import write
from tests.support.shards import GridSource, TinySource

LACKING = 3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(TinySource(), tmp_path / "set", samples_per_shard=20, workers=1)
    return tmp_path / "set"


def _features(folder: Path, images: range, dim: int, seed: int = 0) -> Path:
    """A folder of npz files, one for each image."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for image in images:
        boxes = np.tile(np.array([0, 0, 32, 48], np.float32), (4, 1))
        size = {"image_w": 64, "image_h": 48}
        features = rng.normal(seed, 1, (4, dim)).astype(np.float32)
        np.savez(folder / f"{image}.npz", features=features, boxes=boxes, **size)
    return folder


def test_set_is_added_beside_tars_that_do_not_change(root: Path) -> None:
    before = {path.name: path.read_bytes() for path in root.glob("train-0000?.tar")}
    source = GridSource(lacking=LACKING)
    manifest = write_set(root, source, workers=2)
    assert {path.name: path.read_bytes() for path in root.glob("train-0000?.tar")} == before
    assert Manifest.load(root) == manifest
    (grid,) = manifest.further
    assert grid.spec.dim == source.dim
    assert sum(map(grid.lacking, manifest.shards)) == LACKING
    for shard in manifest.shards:
        index = manifest.index(grid.tar_of(shard))
        assert [entry.key for entry in index] == [e.key for e in manifest.index(shard)]
    assert verify(manifest) == []
    # The same builds again change nothing, and lose no set.
    assert write(TinySource(), root, samples_per_shard=20, workers=1) == manifest
    assert write_set(root, source, workers=1) == manifest
    with pytest.raises(ShardError, match="has feature sets regions, grid already"):
        write_set(root, GridSource(seed=1), workers=1)
    # As a damaged manifest's message says: building again mends it, and so does adding again.
    (root / MANIFEST).write_text("{")
    assert write(TinySource(), root, samples_per_shard=20, workers=1).further == ()
    assert write_set(root, source, workers=1) == manifest


def test_stopped_addition_continues_and_other_features_are_refused(root: Path) -> None:
    whole = write_set(root, GridSource(), workers=1)
    tars = sorted(root.glob("*.grid.tar"))
    bytes_of = {path: path.read_bytes() for path in tars}
    manifest = Manifest.load(root)
    # As another addition leaves it that was stopped: tars, and no entry in the manifest.
    data = json.loads((root / MANIFEST).read_text())
    (root / MANIFEST).write_text(json.dumps({**data, "further_sets": []}))
    (root / "grid.build.json").unlink()
    with pytest.raises(ShardError, match=r"train-00000.grid.tar: is of other features"):
        write_set(root, GridSource(), workers=1)
    for path in tars:
        path.unlink()
    with pytest.raises(RuntimeError, match="stopped"):
        write_set(root, GridSource(stops_at=30), workers=1)
    assert (root / "train-00000.grid.tar").exists()
    assert not (root / "train-00001.grid.tar").exists()
    kept = (root / "train-00000.grid.tar").stat().st_ino
    with pytest.raises(ShardError, match="is of other features"):
        write_set(root, GridSource(seed=9), workers=1)
    assert write_set(root, GridSource(), workers=1) == whole == manifest
    assert (root / "train-00000.grid.tar").stat().st_ino == kept
    assert {path: path.read_bytes() for path in tars} == bytes_of


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_build_of_two_sets_equals_addition_of_the_second(
    storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = range(1, 13)
    captions = [
        {"image_id": image, "id": image, "caption": f"a dog runs {image}"} for image in images
    ]
    described = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in images],
        "annotations": captions,
    }
    (tmp_path / "captions_train.json").write_text(json.dumps(described))
    regions = _features(tmp_path / "regions", images, 8)
    grid = _features(tmp_path / "grids", images, 5, seed=3)
    build = ["build", "--annotations", str(tmp_path / "captions_train.json"), "--concepts", "0"]
    build += ["--workers", "1", "--storage", storage]
    both, one = tmp_path / "both", tmp_path / "one"
    named = ["--features", f"regions={regions}", "--features", f"grid={grid}"]
    assert main([*build, *named, "--out", str(both)]) == 0
    assert main([*build, "--features", str(regions), "--out", str(one)]) == 0
    add = ["features", "--shards", str(one), "--name", "grid", "--storage", storage]
    assert main([*add, "--features", str(grid), "--workers", "1"]) == 0
    files = {path.name: path.read_bytes() for path in both.iterdir()}
    assert {path.name: path.read_bytes() for path in one.iterdir()} == files
    out = capsys.readouterr().out
    stored = "int8" if storage == "int8" else "float16"
    assert f"grid: npz_dir, width 5, {stored}, up to 4 regions, 12 images" in out
    assert main([*add, "--features", str(grid)]) == 2
    assert "has feature sets regions, grid already" in capsys.readouterr().err
    assert main(["inspect", str(both), "--key", "3"]) == 0
    assert "grid: 4 of width 5" in capsys.readouterr().out
    (grid / "7.npz").unlink()
    other = ["features", "--shards", str(one), "--name", "other", "--features", str(grid)]
    assert main(other) == 2
    assert "no other features for image 7" in (error := capsys.readouterr().err)
    assert "--max-lacking 1" in error
    assert main([*other, "--max-lacking", "1", "--workers", "1"]) == 0
    assert Manifest.load(one).further[1].images == {"train-00000.tar": 11}


def test_every_damage_of_a_set_is_named(root: Path) -> None:
    manifest = write_set(root, GridSource(), workers=1)
    path = root / "train-00001.grid.tar"
    whole = path.read_bytes()
    member = manifest.index(manifest.further[0].tar_of(manifest.shards[1]))[4]
    damaged = bytearray(whole)
    damaged[member.members["regions.npy"].offset + 130] ^= 1
    for content, said in (
        (bytes(damaged), f"sample {member.key}: member {member.key}.regions.npy is damaged"),
        (whole[:5000], "truncated: 5000 bytes"),
    ):
        path.write_bytes(content)
        problems = verify(Manifest.load(root))
        assert any(p.startswith("train-00001.grid.tar: ") and said in p for p in problems), problems
    path.unlink()
    assert any("train-00001.grid.tar: missing" in line for line in verify(Manifest.load(root)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../x"}, "feature set '../x': expected a name"),
        ({"tars": []}, "feature set 'grid' has 0 tars for"),
    ],
)
def test_wrong_manifest_is_refused(root: Path, change: dict[str, object], said: str) -> None:
    write_set(root, GridSource(), workers=1)
    data = json.loads((root / MANIFEST).read_text())
    data["further_sets"][0] |= change
    (root / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(ShardError, match=said.replace(".", r"\.")):
        Manifest.load(root)


def test_version_2_is_read_as_it_is(root: Path) -> None:
    now = Manifest.load(root)
    data = json.loads((root / MANIFEST).read_text())
    del data["feature_set"], data["further_sets"]
    (root / MANIFEST).write_text(json.dumps({**data, "schema_version": 2}))
    assert Manifest.load(root) == now
    assert now.feature_sets == (FeatureSet("regions", now.features),)


def test_unknown_set_is_named(root: Path) -> None:
    write_set(root, GridSource(), workers=1)
    with pytest.raises(ShardError, match=r"no feature set 'gird', expected one of regions, grid"):
        Manifest.load(root).reading(("gird",))
