"""Splits of one image, for which CIDEr is undefined, and captions of which nothing is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capdist.commands.main import main
from capdist.config.base import ConfigError
from capdist.config.run_config import parse_config
from capdist.inference.run_folder import LAST, TrainingProgress
from capdist.training.run import train
from capdist.training.trainer import update_best
from shards.writer import write
from tests.support.runs import checkpoint, records
from tests.support.shards import TinySource


@pytest.fixture
def one_image(tiny_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A run that trains on 9 images and validates on one."""
    shards = tmp_path / "shards"
    write(TinySource((("train", 9), ("val", 1), ("test", 1))), shards, workers=1)
    data = {**tiny_config["data"], "shards": str(shards)}
    return {**tiny_config, "data": data, "run": str(tmp_path / "run")}


def start(config: dict[str, Any]) -> bool:
    return train(parse_config(config, "x.json"), "x.json", resume=False)


def test_cider_of_one_image_is_undefined_and_the_latest_model_is_the_best(
    one_image: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert start(one_image)
    said = "".join(capsys.readouterr())
    assert "warning: CIDEr of split val: it is undefined for one image" in said
    assert "validation CIDEr: it is undefined for one image; the latest model counts as" in said
    assert "steps; no CIDEr" in said
    run = tmp_path / "run"
    assert checkpoint(run, "best") == checkpoint(run, LAST)
    assert not any("val_cider" in record for record in records(run))
    assert any("val_words" in record for record in records(run))

    monkeypatch.setenv("PATH", "")
    assert main(["evaluate", "--run", str(run), "--beam", "1"]) == 0
    assert "CIDEr is absent: it is undefined for one image" in capsys.readouterr().out
    scores = json.loads((run / "scores.json").read_text())
    assert all("CIDEr" not in row["values"] for row in scores.values())


def test_an_undefined_score_is_better_and_leaves_patience_alone() -> None:
    progress = TrainingProgress(best={"AP": 3.0}, waited=2)
    progress, best = update_best(progress, "CIDEr", None)
    assert best
    assert progress == TrainingProgress(best={"AP": 3.0}, waited=0)


@pytest.mark.parametrize("objective", ["scst", "dpo"])
def test_rewards_from_one_training_image_are_refused(
    one_image: dict[str, Any], tmp_path: Path, objective: str
) -> None:
    shards = tmp_path / "one"
    write(TinySource((("train", 1), ("val", 2))), shards, workers=1)
    stage = {**one_image["stages"][0], "objective": objective}
    data = {**one_image["data"], "shards": str(shards)}
    expected = r"^x\.json: stages\.0: .* has one training image, but rewards need the document freq"
    with pytest.raises(ConfigError, match=expected):
        start({**one_image, "stages": [stage], "data": data})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"min_count": 1000}, r"^x\.json: data\.min_count: no word of the .* occurs 1000 times"),
        (
            {"max_words": 1},
            r"^x\.json: data\.max_words: all \d+ training captions have more than 1",
        ),
    ],
)
def test_captions_that_nothing_is_left_of_are_refused(
    tiny_config: dict[str, Any], tmp_path: Path, data: dict[str, int], message: str
) -> None:
    run = tmp_path / "run"
    changed = {**tiny_config, "data": {**tiny_config["data"], **data}, "run": str(run)}
    with pytest.raises(ConfigError, match=message):
        start(changed)
    assert not (run / "metrics.jsonl").exists()
