"""`capdist export`: the folder captions what the run captions, and its card says what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import capdist
from capdist.commands.main import main
from capdist.inference.captioner import Captioner
from capdist.inference.exported_model import read_run
from shards.manifest import Manifest
from tests.support.photographs import photograph_shards, untrained_run
from tests.support.reports import GLIED, evaluated_run


def write_config(run: Path) -> None:
    """What a training writes beside its checkpoints."""
    config = read_run(run).config
    (run / "config.json").write_text(json.dumps(config.model_dump(mode="json", by_alias=True)))


def test_the_exported_folder_captions_photographs_after_run_and_shards_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = photograph_shards(tmp_path)
    run, out = untrained_run(shards, tmp_path / "run"), tmp_path / "exported"
    write_config(run)
    picture = tmp_path / "photographs/20.png"
    expected = capdist.load(run)(picture)
    capsys.readouterr()
    assert main(["export", "--run", str(run), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    shutil.rmtree(run)
    shutil.rmtree(shards.root)
    assert capdist.load(out)(picture).caption == expected.caption
    card = (out / "MODEL_CARD.md").read_text()
    assert "backbone `quarters`" in card
    assert "predicted from the features by a model in this folder" in card
    assert "Not evaluated" in card


def test_the_card_has_the_scores_with_their_intervals(
    tiny: Manifest, without_java: Path, tmp_path: Path
) -> None:
    run = evaluated_run(tmp_path / "run", tiny, GLIED)
    (run / "concepts").mkdir()
    (run / "concepts/concepts.json").write_text("{}")
    assert main(["export", "--run", str(run), "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out/MODEL_CARD.md").read_text()
    scores = json.loads((run / "scores/test-beam3.json").read_text())
    cider = scores["run, beam 3"]["values"]["CIDEr"]
    (row,) = [line for line in card.splitlines() if line.startswith("| beam 3 |")]
    assert f"{cider:.1f} (" in row
    assert "| constant caption |" in card
    assert "nothing in this folder predicts them" in card
    assert (tmp_path / "out/concepts/concepts.json").read_text() == "{}"
    found = Captioner.open([tmp_path / "out"]).of_shards(str(tiny.root), "test")
    assert found == Captioner.open([run]).of_shards(str(tiny.root), "test")


def test_a_folder_that_is_not_empty_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path)]) == 2
    assert "not empty; give a new folder" in capsys.readouterr().err
