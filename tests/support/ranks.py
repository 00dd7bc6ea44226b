"""Runs a script on several ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.processes import Running, environment, free_port


def run_ranks(script: Path, world: int, arguments: dict[str, Any], timeout: float = 240) -> None:
    """A script on every rank, with the arguments as JSON on its command line.

    Raises:
        AssertionError: with what the ranks printed, if one fails or does not end.
    """
    common = environment(
        PYTHONWARNINGS="ignore::FutureWarning",
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=free_port(),
    )
    ranks = [
        Running(
            str(script),
            json.dumps(arguments),
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]
    try:
        printed = ["".join(rank.communicate(timeout)) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert not any(rank.poll() for rank in ranks), "\n".join(printed)
