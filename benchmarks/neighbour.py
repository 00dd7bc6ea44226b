"""Training beside a busy process: what is lost, compared with what that process takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from capdist.errors import CapdistError
from capdist.reporting.metrics_log import METRICS_LOG, read_records
from capdist.reporting.table import Row, format_markdown, format_table
from shards.progress import tracked
from shards.scenes import SceneSource
from shards.writer import write

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "glied.json"
#: The environment by what OpenMP's threads do while they wait: as capdist asks, or as by default.
POLICIES = {"sleep (ours)": {}, "spin for 3 ms": {"GOMP_SPINCOUNT": "300000"}}
ENGINES = ("torch", "deepspeed")
IMAGES, ROUNDS, WARM_UP = 80, 2, 3
COLUMNS = ("alone", "beside", "ratio %", "left by it %")


@dataclass(frozen=True)
class Measured:
    """captions/s of a run, and the share of the machine's CPU time that its neighbour took."""

    captions_per_s: float
    taken: float


@dataclass(frozen=True)
class Figures:
    """Rounds of each engine and policy, without and with a busy process."""

    rounds: dict[tuple[str, str], list[tuple[Measured, Measured]]]
    cores: int

    @property
    def rows(self) -> dict[str, Row]:
        """captions/s and ratios: the medians of the rounds, each ratio within its round."""
        return {
            f"{engine}, {policy}": {
                "alone": median(alone.captions_per_s for alone, _ in rounds),
                "beside": median(beside.captions_per_s for _, beside in rounds),
                "ratio %": median(100 * b.captions_per_s / a.captions_per_s for a, b in rounds),
                "left by it %": median(100 * (1 - beside.taken) for _, beside in rounds),
            }
            for (engine, policy), rounds in self.rounds.items()
        }

    def table(self) -> str:
        return format_table(self.rows, COLUMNS)

    def to_json(self) -> dict[str, Any]:
        return {"cores": self.cores, "rows": self.rows}

    def page(self, command: str) -> str:
        return (
            f"# Training beside a busy process\n\n`configs/glied.json` on {self.cores} CPU cores, "
            "captions/s of the median step, alone and beside a process of another session that "
            "computes all the time at nice 10; medians of the rounds.\n\n"
            f"{format_markdown(self.rows, COLUMNS)}\n\n"
            "ratio: beside to alone. left by it: the share of the machine's CPU time that the "
            "busy process did not take; a ratio of at least that share loses no more than the "
            f"process takes.\n\n```\n{command}\n```\n"
        )


def measure() -> Figures:
    """Train for one short epoch per round, engine and policy, without and with a busy process."""
    names = [(engine, policy) for engine in ENGINES for policy in POLICIES]
    rounds: dict[tuple[str, str], list[tuple[Measured, Measured]]] = {name: [] for name in names}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write(SceneSource(seed=0, train=IMAGES, val=8, test=8), root / "shards")
        runs = names * ROUNDS
        for name in tracked(runs, len(runs), title="measuring", unit="run"):
            alone = train(root, *name)
            with busy_process() as busy:
                rounds[name].append((alone, train(root, *name, busy)))
    return Figures(rounds, len(os.sched_getaffinity(0)))


def train(root: Path, engine: str, policy: str, busy: int | None = None) -> Measured:
    """One epoch in a process of its own.

    Raises:
        CapdistError: if it fails.
    """
    settings = [f"run={root / 'run'}", f"data.shards={root / 'shards'}", f"engine={engine}"]
    settings += ["stages.0.epochs=1", "data.min_count=1"]
    options = [word for setting in settings for word in ("--set", setting)]
    script = str(ROOT / "launcher" / "train.py")
    command = [sys.executable, script, "--config", str(CONFIG), *options]
    started, before = time.monotonic(), cpu_seconds(busy)
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), **POLICIES[policy]},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CapdistError(f"training failed: {done.stderr.strip()[-500:]}")
    wall, used = time.monotonic() - started, cpu_seconds(busy) - before
    steps = [r for r in read_records(root / "run" / METRICS_LOG) if "loss" in r][WARM_UP:]
    shutil.rmtree(root / "run")
    speed = median(record["captions_per_s"] for record in steps)
    return Measured(speed, used / (wall * len(os.sched_getaffinity(0))))


@contextmanager
def busy_process() -> Iterator[int]:
    """A process that computes all the time at nice 10; its number."""
    # It ends with its parent, also if that is killed.
    code = "import os; os.nice(10); p = os.getppid()\nwhile os.getppid() == p: pass"
    # In a session of its own: Linux shares cores among sessions first, whatever their niceness.
    busy = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        yield busy.pid
    finally:
        busy.kill()
        busy.wait()


def cpu_seconds(process: int | None) -> float:
    """The CPU time that a process has used."""
    if process is None:
        return 0.0
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
