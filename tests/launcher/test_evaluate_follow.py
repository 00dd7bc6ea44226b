"""Scores of the checkpoints of a running training."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from capdist.commands.main import main
from capdist.config.base import ConfigError
from capdist.config.run_config import Config
from capdist.inference.evaluation import EvaluationRequest
from capdist.inference.follow import Follower
from capdist.inference.run_folder import find_checkpoint, step_folders
from capdist.metrics.coco import probe
from capdist.reporting.metrics_log import read_records
from tests.support.processes import Running
from tests.support.resume import wait_for
from tests.support.runs import checkpoint, records, refused, train


def rows(run: Path) -> list[dict[str, Any]]:
    path = run / "scores" / "val-beam3.jsonl"
    return read_records(path) if path.exists() else []


def test_ctrl_c_ends_the_follower_with_status_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press_ctrl_c(_: float) -> None:
        signal.raise_signal(signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(time, "sleep", press_ctrl_c)
    try:
        assert main(["evaluate", "--run", str(tmp_path), "--follow"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    printed = capsys.readouterr()
    assert "following" in printed.out
    assert not printed.err


def test_checkpoints_are_scored_until_training_is_finished(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    training = Running("train.py", "--config", str(config))
    monkeypatch.setenv("PATH", "")  # without Java
    Follower(EvaluationRequest(run, "val")).follow()
    assert training.wait(60) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(f"{run}: training is finished\n")
    scored = {row["step"] for row in rows(run)}
    assert scored | {step for step in (4, 8) if f"step {step}: not scored" in printed} == {4, 8}
    assert {int(checkpoint(run, name).name[5:]) for name in ("last", "best")} <= scored


def test_the_followers_scores_choose_the_best_checkpoint(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    options = ["--config", str(config), "--set", "validation.by=follower", "--resume", "auto"]
    training = Running("train.py", *options, "--set", "stages.0.epochs=3")
    wait_for(lambda: "3 checkpoints " in training.said()[0], training)
    assert checkpoint(run, "last").name == "step-00000012"
    assert find_checkpoint(run, "best") is None
    with monkeypatch.context() as without_java:
        without_java.setenv("PATH", "")
        Follower(EvaluationRequest(run, "val")).follow()
    assert training.wait(60) == 0
    scores = {row["step"]: row["values"]["CIDEr"] for row in rows(run)}
    best = max(scores, key=scores.__getitem__)
    assert list(scores) == [4, 8, 12]
    assert checkpoint(run, "best").name == f"step-{best:08d}"
    assert {f.name for f in step_folders(run)} == {f"step-{best:08d}", "step-00000012"}
    used = {r["step"]: r["val_cider"] for r in records(run) if "val_cider" in r}
    assert used == scores
    same = [{**row, "values": {**row["values"], "CIDEr": 1.0}} for row in rows(run)]
    path = run / "scores" / "val-beam3.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in same))
    more = ["--set", "stages.0.epochs=9", "--set", "stages.0.patience=2"]
    again = train(config, *options[2:], *more)
    assert "trained 12 steps" in again.stdout, again.stderr
    shutil.rmtree(run / "checkpoints")
    line = refused(train(config, *options[2:]))
    assert "val-beam3.jsonl: scores of another training" in line


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, and a PATH without Java."""
    monkeypatch.setenv("PATH", "")
    return Path(shutil.copytree(trained, tmp_path / "run"))


def write_names(run: Path, **names: str) -> None:
    (run / "checkpoints" / "names.json").write_text(json.dumps(names))


def test_a_restart_scores_only_changed_weights_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Follower(EvaluationRequest(run, "val")).follow()
    first = capsys.readouterr().out
    before = rows(run)
    assert all(f"step {row['step']}: BLEU-1 " in first for row in before)
    Follower(EvaluationRequest(run, "val")).follow()
    assert "decoded" not in capsys.readouterr().out
    path = run / "scores" / "val-beam3.jsonl"
    path.write_text(path.read_text().replace(before[-1]["weights"], "0" * 16))
    Follower(EvaluationRequest(run, "val")).follow()
    assert capsys.readouterr().out.count("decoded") == 1
    assert rows(run) == before


def test_the_follower_waits_for_a_run_that_was_stopped(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_names(run, last="step-00000008")

    def finish(_: float) -> None:
        assert rows(run)[-1]["step"] == 8
        write_names(run, last="step-00000008", finished="step-00000008")

    monkeypatch.setattr(time, "sleep", finish)
    Follower(EvaluationRequest(run, "val")).follow()
    assert "training is finished" in capsys.readouterr().out


def test_a_deleted_checkpoint_is_reported_as_skipped(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # with Java, where there is one
    for folder in (run / "checkpoints").glob("step-*4"):
        shutil.rmtree(folder)
    Follower(EvaluationRequest(run, "val")).follow()
    line = "step 4: not scored: the trainer had replaced its checkpoint"
    assert line in capsys.readouterr().out
    (row,) = rows(run)
    assert row["step"] == 8
    assert ("METEOR" in row["values"]) != ("METEOR" in probe())


def test_a_checkpoint_may_be_deleted_while_it_is_read(run: Path) -> None:
    last = checkpoint(run, "last")
    older = last.with_name("step-00000004")
    if not older.exists():  # it was not the best one
        shutil.copytree(last, older)
    follower = Follower(EvaluationRequest(run, "val"))
    older, newer = follower.new()

    class Removing(Follower):
        """The trainer removes a checkpoint after it was listed."""

        def config(self) -> Config:
            shutil.rmtree(older, ignore_errors=True)
            return super().config()

    assert Removing(EvaluationRequest(run, "val")).new() == [newer]
    follower.score(older)
    assert not rows(run)
    (newer / "vocab.json").unlink()
    with pytest.raises(ConfigError, match=r"vocab.json: no such file"):
        follower.score(newer)
