"""Training runs by the command line, and what they leave behind."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from capdist.inference.run_folder import find_checkpoint
from capdist.reporting.metrics_log import read_records
from tests.support.processes import launch

SMALL = {"name": "glied", "width": 16, "embedding": 8, "heads": 2, "hidden": 24}


def train(config: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return launch("train.py", "--config", str(config), *arguments, **settings)


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
