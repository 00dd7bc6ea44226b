"""Commands in processes of their own that something may happen to, and what they print."""

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

#: Seconds that anything may take that must happen.
LIMIT_S = 120.0


class Crew:
    """The ranks of one command, started by entering; whatever is left of them ends with it.

    Args:
        folder: for what they print.
        script: in ``launcher``.
        arguments: of the command.
        world: ranks.
        hosts: a network namespace for each rank; none: this one.
        more: environment.
    """

    def __init__(
        self,
        folder: Path,
        script: str,
        arguments: Sequence[str],
        world: int = 1,
        hosts: Sequence[str] = (),
        **more: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(ROOT / "launcher" / script), *arguments]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), **more}
        self._printed = [
            [folder / f"{rank}.{to}" for to in ("out", "err")] for rank in range(world)
        ]
        self.ranks: list[BaseProcess] = []
        for rank, printed in enumerate(self._printed):
            numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            env = environment(**place, **numbers)
            host = hosts[rank] if hosts else None
            self.ranks.append(SERVER.Process(target=enter, args=(host, command, env, printed)))

    def __enter__(self) -> Crew:
        for rank in self.ranks:
            rank.start()
        self.below = [psutil.Process(self.pid(rank)) for rank in range(len(self.ranks))]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        children = [child for rank in self.below for child in family(rank)]
        for rank in self.ranks:
            rank.kill()
            rank.join()
        psutil.wait_procs(children, timeout=15)  # Ray's end by themselves when their trainer has
        for child in children:
            if child.is_running():
                child.kill()

    def pid(self, rank: int) -> int:
        found = self.ranks[rank].pid
        assert found is not None
        return found

    def kill(self, rank: int, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid(rank), number)

    def child(self, *titles: str) -> psutil.Process | None:
        """A process below the ranks, by its name or how its title begins."""
        for process in [child for rank in self.below for child in family(rank)]:
            try:
                if process.name() in titles or process.cmdline()[0].startswith(titles):
                    return process
            except (psutil.Error, IndexError):
                continue
        return None

    def lines(self, but: int | None = None) -> list[str]:
        """What all ranks but one have printed so far."""
        paths = [path for rank, both in enumerate(self._printed) if rank != but for path in both]
        return [line for path in paths if path.exists() for line in path.read_text().splitlines()]

    @property
    def ended(self) -> bool:
        """Whether no rank is left."""
        return all(rank.exitcode is not None for rank in self.ranks)

    def until(self, moment: Callable[[], object], poll_s: float = 0.02) -> float:
        """Wait for it; the seconds that it took.

        Raises:
            AssertionError: with what was printed last, if it does not come.
        """
        started = time.monotonic()
        while not moment():
            took = time.monotonic() - started
            assert took < LIMIT_S, f"nothing after {took:.0f} s: {self.lines()[-5:]}"
            time.sleep(poll_s)
        return time.monotonic() - started

    def end(self, status: int, but: int | None = None) -> None:
        """Wait for the end of all ranks but one.

        Raises:
            AssertionError: with what was printed last, if it is another end, or none.
        """
        for number, rank in enumerate(self.ranks):
            if number != but:
                rank.join(LIMIT_S)
                assert rank.exitcode == status, f"ended with {rank.exitcode}: {self.lines()[-5:]}"
        traces = [line for line in self.lines(but) if line.startswith("Traceback")]
        assert not traces, f"a traceback: {self.lines(but)[-5:]}"


def family(process: psutil.Process) -> list[psutil.Process]:
    """Its children and theirs, if it is there."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def enter(host: str | None, command: list[str], env: dict[str, str], printed: list[Path]) -> None:
    """A rank's process, in the network of its host."""
    if host is not None:
        place = os.open(f"/run/netns/{host}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(place, 0):
            raise OSError(ctypes.get_errno(), f"can't enter {host}")
    run(command, env, printed)
