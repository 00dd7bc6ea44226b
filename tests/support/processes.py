"""Commands as a person runs them, in processes that start quickly."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


#: Processes that have torch and the packages loaded already: half of a short command is imports.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.support.preloaded"])


class Running:
    """A command in a process of its own, forked from the server; used like a Popen.

    Args:
        script: a path, or a name in ``launcher``.
        arguments: of the script.
        env: the whole environment; that of `environment` by default.
        file_size: the most bytes of a file that the command may write.
    """

    def __init__(
        self,
        script: str,
        *arguments: str,
        env: dict[str, str] | None = None,
        file_size: int = resource.RLIM_INFINITY,
    ) -> None:
        self._folder = TemporaryDirectory()
        self._printed = [Path(self._folder.name) / name for name in ("out", "err")]
        for path in self._printed:
            path.touch()
        self.args = [str(ROOT / "launcher" / script), *arguments]
        self._process = SERVER.Process(
            target=run, args=(self.args, env or environment(), self._printed, file_size)
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
        assert self._process.exitcode is not None, self.said()
        return self._process.exitcode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        self.wait(timeout)
        return self.said()

    def said(self) -> tuple[str, str]:
        out, err = (path.read_text() for path in self._printed)
        return out, err


def launch(script: str, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """A command to its end, with the settings of `Running`."""
    running = Running(script, *arguments, **settings)
    said = running.communicate()
    return subprocess.CompletedProcess(running.args, running.wait(), *said)


def run(
    command: list[str],
    env: dict[str, str],
    printed: list[Path],
    file_size: int = resource.RLIM_INFINITY,
) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    torch.set_num_threads(1)
    gc.freeze()  # a collection need not look through the packages, which takes a second
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def signal_children(pid: int, number: signal.Signals) -> None:
    """Signal a process's descendants; one may end meanwhile, with its parent."""
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.send_signal(number)
