"""Fixtures for all tests: tiny shards, and a config that trains on them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.manifest import Manifest
from shards.writer import write
from tests.support.runs import SMALL
from tests.support.shards import GroundedSource, TinySource

#: Folders and files whose tests start processes and take longest. They come first, so that no
#: process of pytest-xdist is left with a long file at the end.
LONG = (
    *("slurm", "launcher", "engines", "contract", "workers", "faults", "benchmarks", "website"),
    *("test_contributing.py", "test_wheel.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: min(ranks.get(part, len(LONG)) for part in item.path.parts))


@pytest.fixture(scope="session")
def grounded(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The same images with grounding."""
    root: Path = tmp_path_factory.mktemp("grounded")
    return write(GroundedSource(), root, samples_per_shard=8, workers=1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards of 53 / 7 / 5 images, 8 to a shard."""
    root: Path = tmp_path_factory.mktemp("tiny")
    return write(TinySource(), root, samples_per_shard=8, workers=1)


@pytest.fixture(scope="session")
def tiny_config(tiny: Manifest) -> dict[str, Any]:
    """A run of two short epochs in plain torch, without its folder."""
    return {
        "description": "a test",
        "engine": "torch",
        "data": {"shards": str(tiny.root), "min_count": 1, "lanes": 8, "workers": 0},
        "model": SMALL,
        "stages": [
            {
                "objective": "xe",
                "epochs": 2,
                "batch": {"images": 16, "micro": 8},
                "optimizer": {"lr": 0.01},
            }
        ],
    }


@pytest.fixture
def config(tiny_config: dict[str, Any], tmp_path: Path) -> Path:
    """The same as a file; the run's folder is ``run`` beside it."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**tiny_config, "run": str(tmp_path / "run")}))
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def without_java(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Scoring without METEOR, which is slow: a folder, first on the PATH, with a failing Java."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "java").write_text("#!/bin/sh\nexit 1\n")
    (folder / "java").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield folder
