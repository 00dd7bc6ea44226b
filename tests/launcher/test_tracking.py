"""Runs that a service follows, here MLflow with a store on disk."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import environment, free_port, launch
from tests.support.runs import losses, records, refused, train

pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "store"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder.as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return folder


def the_run() -> Any:
    """The only run in the store, and a client."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("capdist").experiment_id])
    return run, client


def test_ranks_resumes_and_evaluations_are_one_tracked_run(
    config: Path, tmp_path: Path, without_java: Path
) -> None:
    arguments = ["--set", "tracking=mlflow"]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    with ThreadPoolExecutor(2) as pool:
        ranks = [environment(**place, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
        short = [*arguments, "--set", "stages.0.epochs=1"]
        done = list(pool.map(lambda env: train(config, *short, env=env), ranks))
    assert [result.returncode for result in done] == [0, 0], done[0].stderr
    result = train(config, *arguments, "--resume", "auto")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "run"
    assert launch("evaluate.py", "--run", str(folder), "--split", "test").returncode == 0

    run, client = the_run()
    assert run.info.status == "FINISHED"
    assert run.data.params["stages.0.objective"] == "xe"
    history = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "loss")}
    assert [history[step] for step in range(1, 9)] == losses(folder)
    ciders = [record["val_cider"] for record in records(folder) if "val_cider" in record]
    assert run.data.metrics["best_val/CIDEr"] == max(ciders)
    (scored, _) = json.loads((folder / "scores.json").read_text()).values()
    assert run.data.metrics["test-beam3/BLEU-4"] == scored["values"]["BLEU-4"]
    for step in (4, 8):
        path = client.download_artifacts(run.info.run_id, f"captions/val-{step:08d}.json")
        written = json.loads((folder / "captions" / f"val-{step:08d}.json").read_text())
        assert json.loads(Path(path).read_text())["captions"] == written


def test_a_service_that_is_lost_does_not_end_training(
    config: Path, tmp_path: Path, store: Path
) -> None:
    arguments = ["--set", "tracking=mlflow"]
    assert train(config, *arguments, "--set", "stages.0.epochs=1").returncode == 0
    run, _ = the_run()
    loss = store / run.info.experiment_id / run.info.run_id / "metrics" / "loss"
    loss.unlink()
    loss.mkdir()
    result = train(config, *arguments, "--resume", "auto")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("warning: tracking by mlflow: ") == 1
    assert len(losses(tmp_path / "run")) == 8


def test_a_service_that_does_not_answer_is_refused_before_training(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    line = refused(train(config, "--set", "tracking=mlflow"))
    assert line.startswith("error: tracking mlflow: API request to http://127.0.0.1:9/")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    line = refused(train(config, "--set", "tracking=x"))
    assert line == f"error: {config}: tracking: no tracker 'x'; known: mlflow, wandb"
