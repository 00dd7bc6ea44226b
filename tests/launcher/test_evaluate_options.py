"""Evaluation with other decoding settings, and of captions that exist already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capdist.commands.main import main
from capdist.data.dataset import references
from capdist.metrics.coco import score
from shards.manifest import Manifest
from tests.support.shards import tiny_sample

pytestmark = pytest.mark.usefixtures("without_java")


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_decoding_settings_are_recorded_with_the_scores(
    run: Path, tmp_path: Path, tiny: Manifest
) -> None:
    evaluate = ["evaluate", "--run", str(run), "--split", "val"]
    assert main(evaluate) == 0
    usual = json.loads((run / "scores" / "val-beam3.json").read_text())
    assert usual["run, beam 3"]["decoding"]["max_words"] == 20
    assert main([*evaluate, "--beam", "2", "--set", "decoding.max_words=2"]) == 0
    (path,) = (run / "scores").glob("val-*-beam2.json")
    assert json.loads(path.read_text())["run, beam 2"]["decoding"] == {
        **usual["run, beam 3"]["decoding"],
        "beam": 2,
        "max_words": 2,
    }
    captions = json.loads((run / "captions" / path.name).read_text())
    assert len(captions) == 7
    assert json.loads((run / "scores" / "val-beam3.json").read_text()) == usual
    caption = ["caption", "--run", str(run), "--shards", str(tiny.root), "--split", "val"]
    settings = ["--set", "decoding.beam=2", "--set", "decoding.max_words=2"]
    assert main([*caption, *settings, "--out", str(tmp_path / "c.json")]) == 0
    assert json.loads((tmp_path / "c.json").read_text()) == captions


@pytest.mark.parametrize("command", ["evaluate", "caption"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.width=3", "--set model.width=3: only decoding.* can be set for a trained model"),
        ("decoding.baem=3", "command line: decoding.baem: unknown key; did you mean decoding.beam"),
        ('decoding.forbidden=["dgo"]', "decoding.forbidden: 'dgo' is not in the vocabulary"),
        ('decoding.forced=[["dgo"]]', "decoding.forced: 'dgo' is not in the vocabulary"),
    ],
)
def test_wrong_decoding_settings_are_one_line(
    run: Path,
    tiny: Manifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    setting: str,
    message: str,
) -> None:
    arguments = {"evaluate": (), "caption": ("--out", str(tmp_path / "c.json"))}[command]
    shards = ("--run", str(run), "--shards", str(tiny.root), "--set", setting)
    assert message in refusal(capsys, command, *shards, *arguments)


def write_results(path: Path, captions: dict[Any, str]) -> Path:
    entries = [{"image_id": image, "caption": text} for image, text in captions.items()]
    path.write_text(json.dumps(entries))
    return path


def test_captions_of_any_system_are_scored(
    tiny: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refs = references(tiny, "val").raw
    captions = {image: texts[0] for image, texts in refs.items()}
    path = write_results(tmp_path / "mine.json", {**captions, 1: "A dog."})
    shards = ["--shards", str(tiny.root), "--split", "val"]
    out = tmp_path / "out"
    assert main(["evaluate", "--results", str(path), *shards, "--out", str(out)]) == 0
    scores = json.loads((out / "mine-scores.json").read_text())
    assert list(scores) == ["mine.json", "constant caption"]
    assert scores["mine.json"]["values"] == score(refs, captions).values
    printed = capsys.readouterr().out
    assert "1 captions are of images that are not in val: left out" in printed
    assert "tiny, val, 7 images" in printed


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ({1000: "a dog"}, "images without a caption: 1001, 1002, 1003, 1004, 1005 and 1 more"),
        ({1000: 7}, "entry 0: expected an image_id and a caption, got {'image_id': 1000, "),
        ({1.5: "a"}, "entry 0: expected an image_id and a caption"),
    ],
)
def test_results_that_can_not_be_scored_are_one_line(
    tiny: Manifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    captions: dict[Any, Any],
    message: str,
) -> None:
    path = write_results(tmp_path / "mine.json", captions)
    shards = ("--shards", str(tiny.root), "--split", "val")
    assert message in refusal(capsys, "evaluate", "--results", str(path), *shards)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to score; give --run, or --results with --shards"),
        (("--results", "c.json"), "--results: no references to score against; give --shards DIR"),
        (("--results", "c.json", "--run", "r", "--beam", "2"), "--run, --beam: not used with"),
    ],
)
def test_incomplete_command_lines_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert message in refusal(capsys, "evaluate", *arguments)


def test_bad_feature_files_are_named_and_left_out(
    tmp_path: Path, lstm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    for number in range(6):
        regions = tiny_sample(number).regions.copy()
        regions[0, 0] = np.nan if number in (0, 4) else regions[0, 0]
        np.savez(folder / f"{number}.npz", feat=regions)
    (folder / "5.npz").write_bytes(b"no zip")
    caption = ("caption", "--run", str(lstm), "--features", str(folder))
    out = ("--out", str(tmp_path / "c.json"))
    assert main([*caption, *out, "--max-bad", "2"]) == 2
    printed = capsys.readouterr()
    assert "image 0: regions have values that are not finite" in printed.err
    assert "3 bad, of 6 images; correct them, or leave them out with --max-bad 3" in printed.err
    assert not (tmp_path / "c.json").exists()
    assert main([*caption, *out, "--max-bad", "3"]) == 0
    assert [entry["image_id"] for entry in json.loads((tmp_path / "c.json").read_text())] == [
        1,
        2,
        3,
    ]
    printed = capsys.readouterr()
    assert "image 4: regions have values" in printed.out
    assert "5.npz: damaged" in printed.out


@pytest.fixture
def lstm(tiny_config: dict[str, Any], tmp_path: Path) -> Path:
    """The folder of a finished run of a model that reads features alone."""
    from capdist.config.run_config import load_config
    from capdist.training.run import train

    path = tmp_path / "lstm.json"
    model = {"name": "lstm", "width": 16}
    path.write_text(json.dumps({**tiny_config, "model": model, "run": str(tmp_path / "lstm")}))
    assert train(load_config(path, ["stages.0.epochs=1"]), str(path), resume=False)
    return tmp_path / "lstm"
