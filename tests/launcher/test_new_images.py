"""From a build through a training to the captions of images that neither has seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capdist.commands.main import main
from capdist.config.run_config import load_config
from capdist.training.run import train
from shards.__main__ import main as shards_main
from shards.build import BuildConfig, build
from shards.concept_predictor import PREDICTOR
from shards.manifest import Manifest
from shards.schema import Array

WORDS = ("dog", "cat", "ball", "street", "child")
SPLITS = ("train", "train", "train", "val")
NEW = range(40, 46)


def features(ids: range) -> dict[str, Array]:
    rng = np.random.default_rng(ids.start)
    feat = rng.integers(-127, 128, (len(ids), 4, 6)).astype(np.int8)
    return {"imgid": np.array(ids), "feat": feat, "scale": np.full(6, 0.25, np.float32)}


def write_captions(path: Path, ids: range, splits: tuple[str, ...]) -> str:
    images = [
        {
            "filename": f"{n}.jpg",
            "imgid": n,
            "split": splits[n % len(splits)],
            "sentences": [{"raw": "A.", "tokens": ["a", WORDS[n % 5], WORDS[n % 3]]}],
        }
        for n in ids
    ]
    path.write_text(json.dumps({"images": images}))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_config: dict[str, Any]) -> Path:
    """A folder with shards and a trained GLIED: ``shards``, ``run``; ``new.npz`` of new images."""
    folder = tmp_path_factory.mktemp("new")
    np.savez(folder / "old.npz", **features(range(40)))
    np.savez(folder / "new.npz", **features(NEW))
    captions = write_captions(folder / "old.json", range(40), SPLITS)
    config = BuildConfig(captions, str(folder / "old.npz"), "net", concepts_kept=3)
    build(config, folder / "shards", workers=1)
    data = {**tiny_config["data"], "shards": str(folder / "shards")}
    path = folder / "config.json"
    path.write_text(json.dumps({**tiny_config, "data": data, "run": str(folder / "run")}))
    assert train(load_config(path, ["stages.0.epochs=1"]), str(path), resume=False)
    return folder


def caption(folder: Path, *arguments: str) -> Any:
    """Captions with their scores, by the trained model."""
    run, path = str(folder / "run"), folder / "captions.json"
    assert main(["caption", "--run", run, *arguments, "--n-best", "2", "--out", str(path)]) == 0
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def new(folder: Path) -> Manifest:
    """Shards of the new images, without concepts."""
    captions = write_captions(folder / "new.json", NEW, ("test",))
    config = BuildConfig(captions, str(folder / "new.npz"), "net", concepts=0)
    return build(config, folder / "new", workers=1)


def test_a_model_with_concepts_captions_feature_files_as_it_captions_shards(
    folder: Path, new: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    files, shards = ["--features", str(folder / "new.npz")], ["--shards", str(new.root)]
    found = caption(folder, *files)
    assert [entry["image_id"] for entry in found] == list(NEW)
    run = ["--run", str(folder / "run")]
    for command in (["caption", *run, "--out", str(folder / "never.json")], ["evaluate", *run]):
        assert main([*command, *shards]) == 2
        line = capsys.readouterr().err
        assert "no concepts, which model 'glied' reads; predict those with: python -m " in line
    command = line.strip().partition("with: python -m shards ")[2].split()
    assert shards_main(command) == 0
    assert caption(folder, *shards) == found
    assert caption(folder, *files, "--concepts-from", str(new.root)) == found
    assert shards_main([*command, "--top", "1"]) == 0
    assert caption(folder, *shards) != found


def test_an_older_run_uses_the_predictor_of_its_shards(folder: Path, tmp_path: Path) -> None:
    run, files = folder / "run", ["--features", str(folder / "new.npz")]
    found = caption(folder, *files)
    (run / PREDICTOR).rename(tmp_path / PREDICTOR)
    try:
        assert caption(folder, *files) == found
    finally:
        (tmp_path / PREDICTOR).rename(run / PREDICTOR)


def test_concepts_of_another_predictor_are_refused(
    folder: Path, new: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = write_captions(tmp_path / "other.json", range(37), SPLITS)
    config = BuildConfig(captions, str(folder / "old.npz"), "net", concepts_kept=3)
    other = str(build(config, tmp_path / "other", workers=1).root)
    run = ["--run", str(folder / "run"), "--out", str(tmp_path / "c.json")]
    files = ["--features", str(folder / "new.npz"), "--concepts-from", other]
    assert main(["caption", *run, *files]) == 2
    assert "predicts the concepts of detector ridge-" in capsys.readouterr().err
    assert main(["caption", *run, "--shards", other, "--split", "val"]) == 2
    assert "predict those with: python -m shards concepts --run" in capsys.readouterr().err
    files[-1] = str(tmp_path)
    assert main(["caption", *run, *files]) == 2
    assert f"{tmp_path}: no concept detector or predictor" in capsys.readouterr().err
