"""Runs that are stopped and resumed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT, Running, environment, free_port
from tests.support.runs import checkpoint, losses, records

TRAIN = str(ROOT / "launcher/train.py")
SAVING = ["--set", "checkpoint.every_steps=1", "--set", "stages.0.epochs=4"]


def command(config: Path, *arguments: str) -> list[str]:
    return ["--config", str(config), *SAVING, *arguments]


@contextmanager
def started(config: Path, *arguments: str, world: int = 1) -> Iterator[list[Running]]:
    """The ranks of a run, as a launcher would start them."""
    place = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        Running(
            "train.py",
            *command(config, *arguments),
            env=environment(**place, RANK=str(rank), LOCAL_RANK=str(rank)),
        )
        for rank in range(world)
    ]
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def finish(config: Path, *arguments: str, world: int = 1) -> None:
    with started(config, *arguments, world=world) as ranks:
        for rank in ranks:
            _, errors = rank.communicate(timeout=200)
            assert rank.poll() == 0, errors


def wait_for(moment: Callable[[], bool], rank: Running | subprocess.Popen[str]) -> None:
    latest = time.monotonic() + 120
    while not moment():
        assert rank.poll() is None, rank.communicate()
        assert time.monotonic() < latest
        time.sleep(0.001)


def steps_done(run: Path) -> int:
    return len(losses(run)) if (run / "metrics.jsonl").is_file() else 0


def same_run(run: Path, whole: Path, best: str = "best") -> None:
    def kept(record: dict[str, Any]) -> dict[str, Any]:
        return {name: v for name, v in record.items() if not name.endswith("_s")}

    assert [kept(record) for record in records(run)] == [kept(record) for record in records(whole)]
    mine, its = (list(checkpoint(folder, best).glob("*.safetensors")) for folder in (run, whole))
    assert [file.read_bytes() for file in mine] == [file.read_bytes() for file in its]
    assert mine
