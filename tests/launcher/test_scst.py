"""Self-critical training after cross entropy, with the training command on tiny shards."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from capdist.inference.run_folder import find_checkpoint
from capdist.signals import STOPPED
from tests.support.processes import launch, signal_children
from tests.support.resume import finish, started, steps_done, wait_for
from tests.support.runs import SMALL, losses, records, refused, train

SCST = {
    "objective": "scst",
    "epochs": 2,
    "batch": {"images": 16, "micro": 8},
    "optimizer": {"lr": 0.003},
    "samples": 3,
    "reward": {"actors": 0},
}


WITHOUT_DROPOUT = {**SMALL, "dropout": 0}


@pytest.fixture(scope="module")
def base_settings(tiny_config: dict[str, Any]) -> dict[str, Any]:
    return {
        **tiny_config,
        "model": {**tiny_config["model"], "dropout": 0.3},
        "stages": [{**tiny_config["stages"][0], "epochs": 6}, SCST],
        "decoding": {"max_words": 8},
    }


def write(folder: Path, base_settings: dict[str, Any], name: str = "run") -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**base_settings, "run": str(folder / name)}))
    return path


def scst_records(run: Path) -> list[dict[str, Any]]:
    return [record for record in records(run) if record.get("stage") == "scst"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, base_settings: dict[str, Any]) -> Path:
    """An uninterrupted run of both stages."""
    folder = tmp_path_factory.mktemp("scst")
    result = train(write(folder, base_settings))
    assert result.returncode == 0, result.stderr
    (folder / "printed").write_text(result.stdout)
    return folder / "run"


def test_the_metrics_log_has_rewards_and_timings(reference: Path) -> None:
    steps = scst_records(reference)
    assert len(steps) == 2 * 4
    for step in steps:
        assert step["reward"] > 0
        assert step["reward_std"] >= 0
        assert step["sample_s"] > 0
        assert step["greedy_s"] == 0
    evaluations = [record for record in records(reference) if "val_cider" in record]
    assert len(evaluations) == 8
    assert all(0 <= each["val_bad_endings"] <= 1 for each in evaluations)
    assert evaluations[-1]["val_vocabulary"] >= 1
    assert evaluations[-1]["val_words"] >= 1


def test_reward_and_evaluation_are_compared_before_the_first_step(reference: Path) -> None:
    printed = (reference.parent / "printed").read_text()
    assert "rewards: 1 cider_d(sigma=6, eos, df=" in printed
    table = printed.split("without end token   with it\n")[1].splitlines()[:2]
    by_ids = float(table[0].split()[-2])
    by_words = float(printed.split("their CIDEr is ")[1].split(".  ")[0].split(". ")[0])
    assert by_ids == pytest.approx(by_words, abs=1e-3)
    assert "lose words" not in printed


def test_the_best_checkpoint_stays_the_best_of_all_stages(reference: Path) -> None:
    best = max(r["val_cider"] for r in records(reference) if "val_cider" in r)
    folder = find_checkpoint(reference, "best")
    assert folder is not None
    kept = json.loads((folder / "progress.json").read_text())["best"]["CIDEr"]
    assert kept == best


def test_a_signal_that_ends_ray_still_saves_the_run(
    reference: Path, base_settings: dict[str, Any], tmp_path: Path
) -> None:
    chosen = ["stages.0.epochs=6", "stages.1.epochs=8", "stages.1.reward.actors=1"]
    settings = [part for setting in chosen for part in ("--set", setting)]
    config = write(tmp_path, base_settings)
    with started(config, *settings) as (rank,):
        wait_for(lambda: steps_done(tmp_path / "run") >= 25, rank)
        # A scheduler signals every process of the job, Ray's as well.
        signal_children(rank.pid, signal.SIGTERM)
        rank.send_signal(signal.SIGTERM)
        printed, errors = rank.communicate(timeout=100)
    assert rank.poll() == STOPPED, errors
    assert "stopped at step" in printed
    finish(config, *settings, "--set", "stages.1.reward.actors=0", "--resume", "auto")
    expected = losses(reference)
    assert losses(tmp_path / "run")[: len(expected)] == expected


def test_two_ranks_share_a_ray_which_does_not_change_the_losses(
    reference: Path, base_settings: dict[str, Any], tmp_path: Path
) -> None:
    chosen = ["stages.0.epochs=6", "stages.1.epochs=4"]
    actors = [*chosen, "stages.1.reward.actors=2", "stages.1.reward.cpus=0.5"]
    for name, chosen_here in (("run", chosen), ("ray", actors)):
        config = write(tmp_path, base_settings, name)
        shutil.copytree(reference, tmp_path / name)
        settings = [part for setting in chosen_here for part in ("--set", setting)]
        with started(config, *settings, "--resume", "auto", world=2) as ranks:
            if name == "ray":
                wait_for(lambda: steps_done(tmp_path / "ray") > len(losses(reference)), ranks[0])
                ours = [psutil.Process(rank.pid).children(recursive=True) for rank in ranks]
                names = [process.name() for process in [*ours[0], *ours[1]]]
                assert names.count("gcs_server") == 1
                assert sum(name.startswith("ray::Scorer") for name in names) == 4
            for rank in ranks:
                printed, errors = rank.communicate(timeout=200)
                assert rank.poll() == 0, errors
                assert "Ray" not in printed
    assert losses(tmp_path / "ray") == losses(tmp_path / "run")
    assert len(scst_records(tmp_path / "ray")) == 16
    assert not psutil.wait_procs([*ours[0], *ours[1]], timeout=60)[1]


def test_the_greedy_baseline_and_other_rewards(
    base_settings: dict[str, Any], tmp_path: Path
) -> None:
    metrics = {"cider_d": 1.0, "bleu_4": 0.5, "rouge_l": 0.5}
    reward = {"actors": 0, "metrics": metrics}
    stage = {**SCST, "baseline": "greedy", "samples": 1, "epochs": 1, "reward": reward}
    config = write(tmp_path, {**base_settings, "stages": [stage]})
    result = train(config)
    assert result.returncode == 0, result.stderr
    steps = scst_records(tmp_path / "run")
    assert len(steps) == 4
    assert all(step["greedy_s"] > 0 for step in steps)
    assert "bleu_4" in result.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stages.1.samples=1"], "baseline leave_one_out needs samples of 2 or more"),
        (['stages.1.reward.metrics={"cidre": 1}'], "no reward 'cidre'; known: bleu_4, cider_d"),
        (["stages.1.reward.metrics={}"], "no reward"),
        (
            ["ray.address=127.0.0.1:1", "ray.timeout_s=1", "stages.1.reward.actors=1"],
            "ray.address 127.0.0.1:1: no Ray answered within 1 s",
        ),
    ],
)
def test_impossible_settings_are_one_line(
    base_settings: dict[str, Any], tmp_path: Path, settings: list[str], message: str
) -> None:
    stages = [{**base_settings["stages"][0], "epochs": 1}, SCST]
    config = write(tmp_path, {**base_settings, "stages": stages})
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert message in refused(train(config, *arguments))


def test_a_document_frequency_of_another_vocabulary_is_refused(
    reference: Path, base_settings: dict[str, Any], tmp_path: Path
) -> None:
    from capdist.metrics.document_frequency import DocumentFrequency

    shutil.copytree(reference, tmp_path / "run")
    df = tmp_path / "run" / "document_frequency.npz"
    DocumentFrequency.count({1: [[4, 2]]}, "another").save(df)
    config = write(tmp_path, base_settings)
    result = train(config, "--set", "stages.1.epochs=3", "--resume", "auto")
    assert f"{df}: counted for vocabulary another" in refused(result)


def test_evaluation_reads_the_run(without_java: Path, reference: Path) -> None:
    result = launch("evaluate.py", "--run", str(reference), "--split", "val")
    assert result.returncode == 0, result.stderr
