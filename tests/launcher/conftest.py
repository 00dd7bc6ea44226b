"""Commands as a person runs them, on tiny shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.index import Manifest

ROOT = Path(__file__).parents[2]
SMALL = {"name": "glied", "width": 16, "embedding": 8, "heads": 2, "hidden": 24}


@pytest.fixture
def config(tiny: Manifest, tmp_path: Path) -> Path:
    """A run of two short epochs in plain torch."""
    path = tmp_path / "config.json"
    stage = {
        "objective": "xe",
        "epochs": 2,
        "batch": {"images": 16, "micro": 8},
        "optimizer": {"lr": 0.01},
    }
    described = {
        "description": "a test",
        "run": str(tmp_path / "run"),
        "engine": "torch",
        "data": {"shards": str(tiny.root), "min_count": 1, "lanes": 8, "workers": 0},
        "model": SMALL,
        "stages": [stage],
    }
    path.write_text(json.dumps(described))
    return path


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def launch(
    script: str, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "launcher" / script), *arguments],
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refusal is."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]
