"""The server under load, compared with the captioner alone in the same run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.request import urlopen

import capdist
from capdist.errors import CapdistError
from capdist.inference.photographs import PhotographCaptioner
from capdist.reporting.table import Row, format_markdown, format_table
from shards.pictures import find_pictures
from shards.progress import tracked

ROOT = Path(__file__).parents[1]
ROUNDS = 3
COLUMNS = ("images/s", "p50 ms", "p95 ms", "of captioner %")
#: Photographs of a call of the captioner.
CALL = 64


@dataclass(frozen=True)
class Setting:
    """Folders of the run and of the photographs, the number of clients, and their time."""

    run: Path
    images: Path
    clients: int
    seconds: int


@dataclass(frozen=True)
class Round:
    """images/s of the captioner and of the server, and the seconds of each of its answers."""

    alone: float
    served: float
    latencies: tuple[float, ...]
    statuses: Counter[str]


@dataclass(frozen=True)
class Figures:
    """The rounds, and the server's resident memory in MB before and after them."""

    setting: Setting
    rounds: list[Round]
    memory: tuple[float, float]

    @property
    def ratio(self) -> float:
        """The server's images/s compared with the captioner's: the median of the rounds' ratios."""
        return median(each.served / each.alone for each in self.rounds)

    @property
    def statuses(self) -> Counter[str]:
        return sum((each.statuses for each in self.rounds), Counter())

    @property
    def rows(self) -> dict[str, Row]:
        cuts = quantiles([1000 * s for each in self.rounds for s in each.latencies], n=20)
        return {
            "captioner": {"images/s": median(each.alone for each in self.rounds)},
            "server": {
                "images/s": median(each.served for each in self.rounds),
                "p50 ms": cuts[9],
                "p95 ms": cuts[18],
                "of captioner %": 100 * self.ratio,
            },
        }

    def table(self) -> str:
        return f"{format_table(self.rows, COLUMNS)}\n\n{self._notes()}"

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "ratio": self.ratio,
            "statuses": self.statuses,
            "memory_mb": self.memory,
        }

    def page(self, command: str) -> str:
        cores = len(os.sched_getaffinity(0))
        return (
            "# The server under load\n\n"
            f"`capdist serve` with {self.setting.clients} clients in a second process, each of "
            "which sends the next photograph when it has the caption of the last one, and "
            f"`capdist.load` on the same photographs, in turn on {cores} CPU cores; "
            f"{self.setting.seconds} s of each in {ROUNDS} rounds.\n\n"
            f"{format_markdown(self.rows, COLUMNS)}\n\n{self._notes()}\n\n"
            f"images/s and the ratio are medians of the rounds.\n\n```\n{command}\n```\n"
        )

    def _notes(self) -> str:
        answers = ", ".join(f"{n} × {status}" for status, n in sorted(self.statuses.items()))
        before, after = self.memory
        return f"Answers: {answers}. Resident memory: {before:.0f} MB before, {after:.0f} MB after."


def measure(setting: Setting) -> Figures:
    """Captioner and server in turn.

    Raises:
        CapdistError: if the run can't caption photographs, or the server does not start or stop.
    """
    paths = list(find_pictures(setting.images).values())
    captioner = capdist.load(setting.run)
    captioner(paths[:CALL])
    rounds, seconds = [], setting.seconds / ROUNDS
    with server(setting) as address:
        send(setting, address, 1)
        before = memory(address)
        for _ in tracked(range(ROUNDS), ROUNDS, title="measuring", unit="round"):
            alone = caption(captioner, paths, seconds)
            found = send(setting, address, seconds)
            served = len(found["seconds"]) / found["elapsed"]
            statuses = Counter(found["statuses"])
            rounds.append(Round(alone, served, tuple(found["seconds"]), statuses))
        after = memory(address)
    return Figures(setting, rounds, (before, after))


def caption(captioner: PhotographCaptioner, paths: list[Path], seconds: float) -> float:
    """The captioner's images/s."""
    started, done, left = time.perf_counter(), 0, cycle(paths)
    while (elapsed := time.perf_counter() - started) < seconds:
        done += len(captioner(list(islice(left, CALL))))
    return done / elapsed


@contextmanager
def server(setting: Setting) -> Iterator[str]:
    """The address of a server in a process of its own.

    Raises:
        CapdistError: if it does not start, or does not stop with status 0.
    """
    options = ["--port", "0", "--queue", str(setting.clients)]
    process = subprocess.Popen(
        [sys.executable, "-m", "capdist", "serve", "--run", str(setting.run), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        line = process.stdout.readline()
        if not line:
            raise CapdistError("the server did not start; see above")
        yield line.partition(" ")[0]
    finally:
        process.terminate()
        status = process.wait()
    if status:
        raise CapdistError(f"the server stopped with status {status}; see above")


def send(setting: Setting, address: str, seconds: float) -> dict[str, Any]:
    """What clients in another process got.

    Raises:
        CapdistError: if one of them failed.
    """
    arguments = [address, str(setting.clients), str(seconds), str(setting.images)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serve_client", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CapdistError(f"the clients failed: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def memory(address: str) -> float:
    """The server's resident memory in MB, as it says itself."""
    with urlopen(f"{address}/metrics") as answer:
        text = answer.read().decode()
    found = re.search(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
    assert found
    return float(found[1]) / 1e6
