"""The training command: complete runs, and bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shards.manifest import Manifest
from shards.writer import write
from tests.support.processes import ROOT, environment, free_port
from tests.support.runs import checkpoint, losses, records, refused, train
from tests.support.shards import TinySource


def test_a_run_writes_its_documented_files(config: Path, tmp_path: Path) -> None:
    result = train(config)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "run"
    assert len(losses(run)) == 8
    assert [r["epoch"] for r in records(run) if "val_cider" in r] == [1, 2]
    best = checkpoint(run, "best")
    for name in ("model.safetensors", "config.json", "vocab.json", "progress.json", "rank-0.pt"):
        assert (best / name).is_file()
    for name in ("config.json", "vocab.json", "versions.json"):
        assert (run / name).is_file()
    assert len(list((run / "captions").glob("val-*.json"))) == 2
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert events.Tags()["images"] == [f"val/{image}" for image in range(1000, 1004)]
    assert [image.step for image in events.Images("val/1000")] == [4, 8]
    assert "trained 8 steps" in result.stdout
    assert '"name":"loss","steps":[1,2,3,4,5,6,7,8]' in (run / "report.html").read_text()


def test_two_ranks_of_the_deepspeed_launcher_train_as_one_process_does(
    config: Path, tmp_path: Path
) -> None:
    assert train(config, "--set", "model.dropout=0").returncode == 0
    deepspeed = Path(sys.executable).with_name("deepspeed")
    result = subprocess.run(
        [
            *[str(deepspeed), "--num_gpus", "2", "--master_port", free_port(), "launcher/train.py"],
            *["--config", str(config), "--set", "engine=deepspeed", "--set", "model.dropout=0"],
            *["--set", f"run={tmp_path / 'two'}", "--set", "deepspeed.zero_optimization.stage=2"],
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "run"), rel=1e-4)


def test_early_stopping_counts_evaluations_without_improvement(
    config: Path, tmp_path: Path
) -> None:
    frozen = ["--set", "stages.0.optimizer.lr=1e-12", "--set", "stages.0.patience=2"]
    assert train(config, *frozen, "--set", "stages.0.epochs=9").returncode == 0
    assert [r["epoch"] for r in records(tmp_path / "run") if "val_cider" in r] == [1, 2, 3]


def test_stages_start_from_the_best_of_the_one_before(config: Path, tmp_path: Path) -> None:
    described = json.loads(config.read_text())
    described["stages"].append({**described["stages"][0], "optimizer": {"lr": 1e-12}})
    described["model"]["dropout"] = 0
    config.write_text(json.dumps(described))
    assert train(config).returncode == 0
    evaluations = [r["val_cider"] for r in records(tmp_path / "run") if "val_cider" in r]
    assert evaluations[2:] == [max(evaluations[:2])] * 2


def test_a_finished_run_is_not_changed(config: Path, run: Path) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    assert "holds a run" in refused(train(config))
    assert train(config, "--resume", "auto").returncode == 0
    assert (run / "metrics.jsonl").read_bytes() == before
    written = (run / "config.json").read_bytes()
    again = train(config, "--resume", "auto", "--set", "stages.0.optimizer.lr=0.5")
    assert f"{run}: trained to the end already; config.json stays as it is" in again.stdout
    assert (run / "config.json").read_bytes() == written


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.min_cuont=3", "data.min_cuont: unknown key; did you mean data.min_count?"),
        ("lr=0.1", "lr: unknown key; did you mean stages.optimizer.lr?"),
        ("model.widht=8", "model.widht: unknown key; did you mean model.width?"),
        ("stages.0.epochs=many", "stages.0.epochs: "),
        ("stages.0.batch.images=0", "stages.0.batch.images: "),
        ("model.name=gleid", "no model 'gleid'; known: "),
        ("data.shards=/nowhere", "/nowhere/manifest.json: no manifest"),
        ("validation.split=dev", "no split 'dev', expected one of test, train, val"),
        ("deepspeed.train_batch_size=3", "train_batch_size is set by stages.N.batch.images"),
        ("stages.0.scheduled_sampling.increase=0.1", "scheduled_sampling needs a recurrent model"),
        ("stages.0.grounding.weight=1", "stages.0.grounding needs a model that predicts"),
        ("stages.0.grounding.iou=1", "stages.0.grounding.iou: Input should be less than 1"),
    ],
)
def test_a_bad_config_is_one_line(config: Path, override: str, message: str) -> None:
    assert message in refused(train(config, "--set", override))


def test_a_grounding_loss_needs_shards_with_grounding(config: Path, tiny: Manifest) -> None:
    model = 'model={"name": "ss_updown", "semantic": false}'
    line = refused(train(config, "--set", model, "--set", "stages.0.grounding.weight=1"))
    assert f"stages.0.grounding: {tiny.root}: its samples have no grounding; remove it" in line


def test_an_error_in_the_deepspeed_section_is_one_line(config: Path) -> None:
    wrong = ["--set", "engine=deepspeed", "--set", "deepspeed.zero_optimization.stage=7"]
    assert "error: deepspeed: " in refused(train(config, *wrong))


def test_a_missing_config_is_one_line(tmp_path: Path) -> None:
    assert "nothing.json: no such file" in refused(train(tmp_path / "nothing.json"))


def truncate(tar: Path) -> None:
    tar.write_bytes(tar.read_bytes()[:9000])


def flip(tar: Path) -> None:
    manifest = Manifest.load(tar.parent)
    (shard,) = (shard for shard in manifest.shards if shard.name == tar.name)
    data = bytearray(tar.read_bytes())
    data[manifest.index(shard)[0].members["regions.npy"].offset + 130] ^= 1
    tar.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        (truncate, "python -m shards verify"),
        (flip, "python -m shards verify"),
        (Path.unlink, "restore the file or build the shards again"),
    ],
)
def test_training_stops_at_a_damaged_shard(
    config: Path, tiny: Manifest, tmp_path: Path, damage: Callable[[Path], None], remedy: str
) -> None:
    shutil.copytree(tiny.root, tmp_path / "shards")
    tar = tmp_path / "shards" / tiny.split("train")[1].name
    damage(tar)
    line = refused(train(config, "--set", f"data.shards={tmp_path / 'shards'}"))
    assert tar.name in line
    assert remedy in line


def test_a_nan_loss_keeps_the_last_checkpoint(config: Path, run: Path) -> None:
    more = ["--resume", "auto", "--set", "stages.0.epochs=3"]
    line = refused(train(config, *more, "--set", "stages.0.optimizer.lr=1e38"))
    assert "step 10: the loss is nan for samples 0000000000" in line
    assert "step-00000008 is complete. Continue with --resume auto" in line
    assert train(config, *more).returncode == 0


def test_nonfinite_weights_are_not_saved(config: Path, tmp_path: Path) -> None:
    # Without an eps, words that never occur are updated by 0 / 0, which does not affect the loss.
    nonfinite = ["--set", "stages.0.optimizer.eps=1e-300", "--set", "checkpoint.every_steps=1"]
    line = refused(train(config, *nonfinite))
    assert "step 1: " in line
    assert "weights hold values that are not finite" in line
    assert "nothing is saved yet" in line
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_more_ranks_than_images_are_refused(config: Path, tmp_path: Path) -> None:
    source = TinySource(sizes=(("train", 1), ("val", 1)))
    root = write(source, tmp_path / "one", workers=1).root
    settings = ["--set", f"data.shards={root}", "--set", "data.lanes=2"]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    with ThreadPoolExecutor(2) as pool:
        starts = [
            pool.submit(train, config, *settings, env=environment(**place, RANK=r, LOCAL_RANK=r))
            for r in "01"
        ]
        first, other = (start.result() for start in starts)
    assert "1 training images for 2 ranks; train on no more ranks than images" in refused(first)
    # Only one rank reports it.
    assert (other.returncode, "error" in other.stderr) == (2, False)


def test_a_run_does_not_resume_with_another_vocabulary(config: Path, run: Path) -> None:
    line = refused(train(config, "--resume", "auto", "--set", "data.min_count=40"))
    assert "vocabulary" in line


def test_a_run_does_not_resume_with_another_model(config: Path, run: Path) -> None:
    line = refused(train(config, "--resume", "auto", "--set", "model.hidden=40"))
    assert "model is not the one of" in line


def test_missing_java_is_reported_at_the_start(config: Path, tmp_path: Path) -> None:
    result = train(config, env=environment(PATH=str(tmp_path)))
    assert result.returncode == 0, result.stderr
    assert "METEOR will be absent: no java on PATH" in result.stdout
