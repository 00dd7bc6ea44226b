"""The SLURM cluster, and a run without SLURM to compare with."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.manifest import Manifest
from tests.slurm.cluster import Cluster, why_unavailable
from tests.support.runs import SMALL, train


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if why := why_unavailable():
        pytest.skip(why)
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def without_java(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An option of sbatch: a PATH without Java, because METEOR would take half a minute."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("bash", "srun", "scontrol"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return f"--export=ALL,PATH={Path(sys.executable).parent}:{folder}"


@pytest.fixture(scope="session")
def config(tiny: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cross entropy and self-critical training without dropout, which each rank draws itself."""
    folder = tmp_path_factory.mktemp("reference")
    stage: dict[str, Any] = {"epochs": 2, "batch": {"images": 16, "micro": 4}}
    settings = {
        "description": "a test",
        "run": str(folder / "run"),
        "engine": "torch",
        "data": {"shards": str(tiny.root), "min_count": 1, "lanes": 8, "workers": 0},
        "model": {**SMALL, "dropout": 0},
        "stages": [
            {"objective": "xe", **stage, "optimizer": {"lr": 0.01}},
            {
                **{"objective": "scst", **stage, "optimizer": {"lr": 0.003}},
                **{"samples": 3, "reward": {"actors": 0}},
            },
        ],
        "decoding": {"max_words": 8},
    }
    path = folder / "config.json"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="session")
def reference(config: Path) -> Path:
    """The run folder of one process without SLURM."""
    result = train(config)
    assert result.returncode == 0, result.stderr
    return config.parent / "run"
