"""A finished run, and a PATH with a Java that fails."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import train


@pytest.fixture(scope="session")
def trained(tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests that change it use `run`."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "config.json"
    path.write_text(json.dumps({**tiny_config, "run": str(folder / "run")}))
    result = train(path)
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, in the folder that `config` names."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def without_java(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Scoring without METEOR, which is slow: a folder, first on the PATH, with a failing Java."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "java").write_text("#!/bin/sh\nexit 1\n")
    (folder / "java").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield folder
