"""A run that was killed, stopped or out of disk resumes as if it had not been interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from capdist.signals import STOPPED
from tests.support.processes import environment, free_port, signal_children
from tests.support.resume import (
    SAVING,
    TRAIN,
    command,
    finish,
    same_run,
    started,
    steps_done,
    wait_for,
)
from tests.support.runs import losses, records, refused, train

#: State beside the weights and the optimizer: a moving baseline, and averaged weights.
HARD = '{"name": "hard_attention", "width": 16, "embedding": 8, "attention": 8}'
AVERAGED = ["stages.0.optimizer.ema=0.9", "stages.0.drop_regions=0.3"]


@pytest.mark.parametrize(
    ("world", "settings"),
    [
        (1, ["engine=deepspeed"]),
        (2, [f"model={HARD}", "stages.0.reinforce={}", *AVERAGED, "engine=torch"]),
        (2, ["engine=deepspeed", "deepspeed.zero_optimization.stage=3"]),
    ],
    ids=lambda value: value if isinstance(value, int) else value[-1].rpartition(".")[2],
)
def test_resume_is_bit_exact_after_sigkill(
    config: Path, tmp_path: Path, world: int, settings: list[str]
) -> None:
    chosen = [word for setting in settings for word in ("--set", setting)]
    reference, run = tmp_path / "reference", tmp_path / "run"
    finish(config, *chosen, "--set", f"run={reference}", world=world)
    with started(config, *chosen, world=world) as ranks:
        wait_for(lambda: steps_done(run) >= 6, ranks[0])
        for rank in ranks:
            rank.kill()
    finish(config, *chosen, "--resume", "auto", world=world)
    same_run(run, reference)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_config: dict[str, Any]) -> Path:
    """An uninterrupted run of one rank in plain PyTorch."""
    folder = tmp_path_factory.mktemp("reference")
    config = folder / "config.json"
    config.write_text(json.dumps({**tiny_config, "run": str(folder / "run")}))
    finish(config)
    return folder / "run"


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "at a step": lambda run: steps_done(run) >= 6,
    "while it saves": lambda run: steps_done(run) > 4 and any(run.glob("checkpoints/.writing-*/*")),
    "while it evaluates": lambda run: (run / "checkpoints/step-00000008-inside").is_dir(),
    "after an evaluation": lambda run: any("val_cider" in r for r in records(run)[5:]),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_resume_is_bit_exact_at_every_moment(
    config: Path, tmp_path: Path, reference: Path, moment: str
) -> None:
    run = tmp_path / "run"
    with started(config) as (rank,):
        wait_for(lambda: steps_done(run) > 0 and MOMENTS[moment](run), rank)
        rank.kill()
    finish(config, "--resume", "auto")
    same_run(run, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_ends_the_run(
    config: Path, tmp_path: Path, reference: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    # No other checkpoints than at the signal, which a reader process gets as well.
    settings = ["--set", "checkpoint.every_steps=1000", "--set", "data.workers=1"]
    with started(config, *settings) as (rank,):
        wait_for(lambda: steps_done(run) >= 6, rank)
        signal_children(rank.pid, number)
        rank.send_signal(number)
        printed, errors = rank.communicate(timeout=60)
    assert rank.poll() == STOPPED, errors
    done = steps_done(run)
    assert f"stopped at step {done}; " in printed
    assert "Continue with --resume auto" in printed
    finish(config, *settings, "--resume", "auto")
    same_run(run, reference)
    assert done < steps_done(run)


def test_ranks_stop_after_the_same_step_and_one_rank_resumes(config: Path, tmp_path: Path) -> None:
    # Without dropout, which differs between one rank and two.
    no_dropout = ["--set", "model.dropout=0"]
    finish(config, *no_dropout, "--set", f"run={tmp_path / 'reference'}")
    zero = [
        *no_dropout,
        "--set",
        "engine=deepspeed",
        "--set",
        "deepspeed.zero_optimization.stage=1",
    ]
    with started(config, *zero, world=2) as ranks:
        wait_for(lambda: steps_done(tmp_path / "run") >= 6, ranks[0])
        ranks[1].send_signal(signal.SIGTERM)
        outputs = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [rank.poll() for rank in ranks] == [STOPPED, STOPPED]
    assert ["stopped at step" in output for output in outputs] == [True, False]
    finish(config, *zero, "--resume", "auto", "--set", "stages.0.batch.micro=4")
    found, expected = (losses(tmp_path / name) for name in ("run", "reference"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_a_signal_to_the_job_of_the_deepspeed_launcher_saves_the_run(
    config: Path, tmp_path: Path
) -> None:
    deepspeed = str(Path(sys.executable).with_name("deepspeed"))
    job = [deepspeed, "--num_gpus", "2", "--master_port", free_port(), TRAIN, *command(config)]
    process = subprocess.Popen(
        job, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: steps_done(tmp_path / "run") >= 6, process)
    # A scheduler signals every process of the job.
    signal_children(process.pid, signal.SIGTERM)
    printed, _ = process.communicate(timeout=100)
    assert "stopped at step" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_a_full_disk_keeps_the_last_checkpoint(
    config: Path, tmp_path: Path, reference: Path, engine: str
) -> None:
    chosen = ["--set", f"engine={engine}"]
    assert train(config, *SAVING, *chosen, "--set", "stages.0.epochs=1").returncode == 0
    # Of a larger file, the system refuses the rest with the error of a full disk.
    more = ["--resume", "auto"]
    line = refused(train(config, *SAVING, *chosen, *more, file_size=20_000))
    assert "step-00000005-inside: not written, with" in line
    assert "step-00000004" in line
    assert line.endswith("make room, then continue with --resume auto")
    assert not list((tmp_path / "run").glob("checkpoints/.writing-*"))
    finish(config, *chosen, *more)
    if engine == "torch":
        assert losses(tmp_path / "run")[4:] == losses(reference)[4:]


def test_a_folder_in_use_is_refused(config: Path, tmp_path: Path) -> None:
    with started(config, "--set", "stages.0.epochs=400") as (rank,):
        wait_for(lambda: steps_done(tmp_path / "run") > 0, rank)
        line = refused(train(config, "--resume", "auto"))
        assert f"process {rank.pid} on " in line
        assert "is training in it" in line


def test_a_killed_rank_is_reported_by_the_other(config: Path, tmp_path: Path) -> None:
    with started(config, "--set", "stages.0.epochs=400", world=2) as ranks:
        wait_for(lambda: steps_done(tmp_path / "run") > 4, ranks[0])
        ranks[1].kill()
        _, errors = ranks[0].communicate(timeout=60)
    assert ranks[0].poll() == 2
    assert "error: another rank exited: see its log" in errors
    assert "Continue with --resume auto" in errors
    assert "Traceback" not in errors
