"""Commands as a person runs them, on tiny shards."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from capdist.inference.run_folder import find_checkpoint
from capdist.reporting.metrics_log import read_records
from shards.manifest import Manifest

ROOT = Path(__file__).parents[2]
SMALL = {"name": "glied", "width": 16, "embedding": 8, "heads": 2, "hidden": 24}


@pytest.fixture(scope="session")
def tiny_config(tiny: Manifest) -> dict[str, Any]:
    """A run of two short epochs in plain torch, without its folder."""
    return {
        "description": "a test",
        "engine": "torch",
        "data": {"shards": str(tiny.root), "min_count": 1, "lanes": 8, "workers": 0},
        "model": SMALL,
        "stages": [
            {
                "objective": "xe",
                "epochs": 2,
                "batch": {"images": 16, "micro": 8},
                "optimizer": {"lr": 0.01},
            }
        ],
    }


@pytest.fixture
def config(tiny_config: dict[str, Any], tmp_path: Path) -> Path:
    """The same as a file; the run's folder is ``run`` beside it."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**tiny_config, "run": str(tmp_path / "run")}))
    return path


@pytest.fixture(scope="session")
def trained(tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "config.json"
    path.write_text(json.dumps({**tiny_config, "run": str(folder / "run")}))
    result = train(path)
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """First on the path: a Java that fails at once, for it is slow and proves nothing here."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "java").write_text("#!/bin/sh\nexit 1\n")
    (folder / "java").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield folder


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


#: Processes that have torch and the packages loaded already: half of a short command is imports.
#: The first of torch's optimizers imports torch._dynamo, which takes longer than all others.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "capdist.inference.evaluation",
        "capdist.training.run",
        "torch._dynamo",
        "torch.utils.tensorboard",
    ]
)


class Running:
    """A command in a process of its own, from the server; used as a Popen is."""

    def __init__(self, script: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._folder = TemporaryDirectory()
        self._printed = [Path(self._folder.name) / name for name in ("out", "err")]
        self.args = [str(ROOT / "launcher" / script), *arguments]
        self._process = SERVER.Process(
            target=run, args=(self.args, env or environment(), self._printed)
        )
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid
        self.kill = self._process.kill

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 300) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None, self._said()
        return self._process.exitcode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        self.wait(timeout)
        return self._said()

    def _said(self) -> tuple[str, str]:
        out, err = (path.read_text() for path in self._printed)
        return out, err


def launch(
    script: str, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    running = Running(script, *arguments, env=env)
    said = running.communicate()
    return subprocess.CompletedProcess(running.args, running.wait(), *said)


def run(command: list[str], env: dict[str, str], printed: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    torch.set_num_threads(1)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def train(
    config: Path, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return launch("train.py", "--config", str(config), *arguments, env=env)


def records(run: Path) -> list[dict[str, Any]]:
    return read_records(run / "metrics.jsonl")


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in records(run) if "loss" in record]


def checkpoint(run: Path, name: str) -> Path:
    found = find_checkpoint(run, name)
    assert found
    return found


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refusal is."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]
