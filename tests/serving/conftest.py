"""A tiny run that captions photographs, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.photographs import IDS, photograph_shards, untrained_run
from tests.support.serving import Running, running


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``photographs``, and two runs with random weights: ``glied`` and ``updown``."""
    root = tmp_path_factory.mktemp("serving")
    shards = photograph_shards(root)
    untrained_run(shards, root / "glied")
    sizes = {"width": 16, "embedding": 8, "attention": 8}
    untrained_run(shards, root / "updown", {"name": "updown", **sizes})
    return root


@pytest.fixture(scope="session")
def photographs(folder: Path) -> list[Path]:
    return [folder / "photographs" / f"{image}.png" for image in IDS]


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    runs = {name: folder / name for name in ("glied", "updown")}
    with running(runs, samples=folder / "photographs") as started:
        yield started
