"""The captioning command, with small trained runs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capdist.commands.main import main
from capdist.reporting import submission
from shards.manifest import Manifest
from tests.support.processes import launch
from tests.support.runs import refused, train
from tests.support.shards import tiny_sample


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_config: dict[str, Any]) -> list[Path]:
    """The run folders of a GLIED and an LSTM."""
    folder = tmp_path_factory.mktemp("runs")
    folders = []
    for name in ("glied", "lstm"):
        model = tiny_config["model"] if name == "glied" else {"name": "lstm", "width": 16}
        config = folder / f"{name}.json"
        settings = {**tiny_config, "model": model, "run": str(folder / name)}
        config.write_text(json.dumps(settings))
        assert train(config, "--set", "stages.0.epochs=1").returncode == 0
        folders.append(folder / name)
    return folders


def captions(*arguments: str, out: Path) -> list[dict[str, Any]]:
    result = launch("caption.py", *arguments, "--out", str(out))
    assert result.returncode == 0, result.stderr
    return list(json.loads(out.read_text()))


def test_captions_of_shards_are_those_of_the_evaluation(
    without_java: None, runs: list[Path], tiny: Manifest, tmp_path: Path
) -> None:
    found = captions("--run", str(runs[0]), "--shards", str(tiny.root), out=tmp_path / "c.json")
    assert launch("evaluate.py", "--run", str(runs[0]), "--split", "test").returncode == 0
    assert found == json.loads((runs[0] / "captions" / "test-beam3.json").read_text())
    shards = ["--shards", str(tiny.root), "--n-best", "2"]
    scored = captions("--run", str(runs[0]), *shards, out=tmp_path / "n.json")
    for entry, plain in zip(scored, found, strict=True):
        first, second = entry["n_best"]
        assert first["caption"] == entry["caption"] == plain["caption"]
        assert first["score"] >= second["score"]


def test_several_runs_decode_as_an_ensemble(
    runs: list[Path], tiny: Manifest, tmp_path: Path
) -> None:
    both = [str(run) for run in runs]
    shards = ["--shards", str(tiny.root), "--n-best", "1", "--beam", "1"]
    alone = captions("--run", both[0], *shards, out=tmp_path / "alone.json")
    twice = captions("--run", both[0], both[0], *shards, out=tmp_path / "twice.json")
    assert alone == twice
    assert len(captions("--run", *both, *shards, out=tmp_path / "both.json")) == 5


def write_features(path: Path, width: int = 6) -> None:
    rows = [tiny_sample(number).regions[:1] for number in range(30, 37)]
    features = np.stack(rows)[..., :width].astype(np.float32)
    np.savez(
        path,
        imgid=np.arange(30, 37, dtype=np.int32),
        feat=features,
        scale=np.ones(width, np.float32),
    )


def test_captions_of_feature_files(runs: list[Path], tmp_path: Path) -> None:
    write_features(tmp_path / "f.npz")
    files = ["--features", str(tmp_path / "f.npz")]
    found = captions("--run", str(runs[1]), *files, out=tmp_path / "c.json")
    assert [entry["image_id"] for entry in found] == list(range(30, 37))
    line = refused(
        launch("caption.py", "--run", str(runs[0]), *files, "--out", str(tmp_path / "d.json"))
    )
    assert "no concept detector or predictor, whose concepts model 'glied' needs" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--features", "narrow.npz"],
            "features of width 5, but the model was trained on 'tiny-v1'",
        ),
        (["--features", "nothing.npz"], "nothing.npz"),
        (["--shards", "nowhere"], "nowhere/manifest.json: no manifest"),
        (["--shards", "SHARDS", "--split", "tset"], "no split 'tset'"),
        (
            ["--shards", "SHARDS", "--beam", "0"],
            "argument --beam: expected a whole number from 1 on, got '0'",
        ),
        (["--shards", "SHARDS", "--n-best", "4"], "--n-best 4 is more than the 3 hypotheses"),
    ],
)
def test_bad_input_is_one_line(
    runs: list[Path], tiny: Manifest, tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_features(tmp_path / "narrow.npz", 5)
    places = {"SHARDS": str(tiny.root), "narrow.npz": str(tmp_path / "narrow.npz")}
    given = [places.get(word, word) for word in arguments]
    result = launch("caption.py", "--run", str(runs[1]), *given, "--out", str(tmp_path / "c.json"))
    assert message in refused(result)
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("option", ["--out", "--html"])
def test_a_photograph_is_not_overwritten(
    runs: list[Path], tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph, other = tmp_path / "a.png", tmp_path / "other"
    photograph.write_bytes(b"its bytes")
    command = ["caption", "--run", str(runs[0]), "--image", str(photograph)]
    assert main([*command, option, str(tmp_path / "." / "a.png")]) == 2
    assert "a.png: would overwrite what is read; choose another file" in capsys.readouterr().err
    assert photograph.read_bytes() == b"its bytes"
    assert main([*command, "--out", str(other), "--html", str(other)]) == 2
    assert f"{other}: would overwrite --out; choose another" in capsys.readouterr().err


def test_a_submission_is_packed_as_the_server_expects_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "IMAGES", {"val2014": 2, "test2014": 1})
    val, test, out = (tmp_path / name for name in ("val.json", "test.json", "out.zip"))
    entry = {"image_id": 1, "caption": "a dog", "n_best": []}
    val.write_text(json.dumps([entry, {"image_id": 2, "caption": "a cat"}]))
    test.write_text(json.dumps([entry]))
    submission.write_submission("mine", val, test, out)
    with zipfile.ZipFile(out) as archive:
        names = ["captions_val2014_mine_results.json", "captions_test2014_mine_results.json"]
        assert archive.namelist() == names
        assert json.loads(archive.read(names[1])) == [{"image_id": 1, "caption": "a dog"}]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"image_id": 1, "caption": "a"}] * 2, "image 1 occurs twice"),
        ([{"image_id": "1", "caption": "a"}], "entry 0: image_id '1', expected an integer"),
        ([{"image_id": 1, "caption": " "}], "image 1: caption ' ', expected text"),
        ([7], "entry 0: image_id None"),
        ({}, "expected a list"),
        ([{"image_id": 1, "caption": "a"}], "1 images, expected the split's 40504"),
    ],
)
def test_results_that_the_server_would_refuse_are_one_line(
    tmp_path: Path, entries: Any, message: str
) -> None:
    path = tmp_path / "val.json"
    path.write_text(json.dumps(entries))
    results = ["--results", str(path), str(path)]
    result = launch("caption.py", "--submission", "x", *results, "--out", str(tmp_path / "x.zip"))
    assert message in refused(result)


def test_forced_words_are_in_their_images_captions_only(
    runs: list[Path], tiny: Manifest, tmp_path: Path
) -> None:
    vocab = json.loads((runs[0] / "vocab.json").read_text())["words"]
    free = captions("--run", str(runs[0]), "--shards", str(tiny.root), out=tmp_path / "free.json")
    image, words = free[0]["image_id"], free[0]["caption"].split()
    word = next(w for w in vocab if w not in words)
    forced = tmp_path / "wanted.json"
    arguments = ["--run", str(runs[0]), "--shards", str(tiny.root), "--forced", str(forced)]
    forced.write_text(json.dumps({image: [[word]]}))
    found = captions(*arguments, out=tmp_path / "forced.json")
    assert word in found[0]["caption"].split()
    assert found[1:] == free[1:]
    for content, message in (
        ({999: [["a"]]}, f"{forced}: image 999 is not captioned here"),
        ({image: [["xyz"]]}, f"forced words of image {image}: 'xyz' is not in the vocabulary"),
        ({image: ["a"]}, f"{forced}: {image}.0: Input should be a valid list; expected"),
    ):
        forced.write_text(json.dumps(content))
        assert message in refused(launch("caption.py", *arguments, "--out", "never.json"))
