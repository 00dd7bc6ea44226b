"""Starts the ranks of a command in processes of their own, signals them and reads their output."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

import psutil

from tests.support.processes import ROOT, SERVER, environment, free_port, run

#: Seconds that any expected event may take.
LIMIT_S = 120.0


class ProcessLauncher:
    """The ranks of one command; they run inside the ``with`` and are killed at its end.

    Args:
        folder: for their output.
        script: in ``launcher``.
        arguments: of the command.
        world: number of ranks.
        namespaces: a network namespace for each rank; none: the current one.
        env: more environment variables.
    """

    def __init__(
        self,
        folder: Path,
        script: str,
        arguments: Sequence[str],
        world: int = 1,
        namespaces: Sequence[str] = (),
        **env: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(ROOT / "launcher" / script), *arguments]
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), **env}
        self._outputs = [
            [folder / f"{rank}.{stream}" for stream in ("out", "err")] for rank in range(world)
        ]
        self._ranks: list[BaseProcess] = []
        for rank, outputs in enumerate(self._outputs):
            numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            variables = environment(**rendezvous, **numbers)
            namespace = namespaces[rank] if namespaces else None
            process = SERVER.Process(target=run_rank, args=(namespace, command, variables, outputs))
            self._ranks.append(process)

    def __enter__(self) -> ProcessLauncher:
        for rank in self._ranks:
            rank.start()
        self._parents = [psutil.Process(self._pid(rank)) for rank in range(len(self._ranks))]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        children = self._children()
        for rank in self._ranks:
            rank.kill()
            rank.join()
        psutil.wait_procs(children, timeout=15)  # Ray's processes exit after their trainer
        for child in children:
            if child.is_running():
                child.kill()

    def kill(self, rank: int, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self._pid(rank), number)

    def child(self, *names: str) -> psutil.Process | None:
        """A descendant of the ranks with one of these names, or whose title starts with one."""
        for process in self._children():
            try:
                if process.name() in names or process.cmdline()[0].startswith(names):
                    return process
            except (psutil.Error, IndexError):
                continue
        return None

    def lines(self, excluded: int | None = None) -> list[str]:
        """The output of all ranks so far, of one ``excluded`` rank not."""
        ranks = [paths for rank, paths in enumerate(self._outputs) if rank != excluded]
        paths = [path for paths in ranks for path in paths if path.exists()]
        return [line for path in paths for line in path.read_text().splitlines()]

    @property
    def finished(self) -> bool:
        """Whether all ranks have exited."""
        return all(rank.exitcode is not None for rank in self._ranks)

    def wait_until(self, condition: Callable[[], object], poll_s: float = 0.02) -> float:
        """Wait for a condition; returns the seconds that it took.

        Raises:
            AssertionError: with the last output, after `LIMIT_S`.
        """
        started = time.monotonic()
        while not condition():
            elapsed = time.monotonic() - started
            assert elapsed < LIMIT_S, f"timeout after {elapsed:.0f} s: {self.lines()[-5:]}"
            time.sleep(poll_s)
        return time.monotonic() - started

    def wait_for_exit(self, status: int, excluded: int | None = None) -> None:
        """Wait until all ranks but the ``excluded`` one have exited.

        Raises:
            AssertionError: with the last output, if the status differs, a rank does not exit in
                time, or one prints a traceback.
        """
        for number, rank in enumerate(self._ranks):
            if number != excluded:
                rank.join(LIMIT_S)
                assert rank.exitcode == status, f"exit {rank.exitcode}: {self.lines()[-5:]}"
        traces = [line for line in self.lines(excluded) if line.startswith("Traceback")]
        assert not traces, f"a traceback: {self.lines(excluded)[-5:]}"

    def _pid(self, rank: int) -> int:
        pid = self._ranks[rank].pid
        assert pid is not None
        return pid

    def _children(self) -> list[psutil.Process]:
        return [child for parent in self._parents for child in descendants(parent)]


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """The children of a process and theirs; none if it has exited."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def run_rank(
    namespace: str | None, command: list[str], env: dict[str, str], outputs: list[Path]
) -> None:
    """Run a rank, in its network namespace."""
    if namespace is not None:
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
            raise OSError(ctypes.get_errno(), f"can't enter {namespace}")
    run(command, env, outputs)
