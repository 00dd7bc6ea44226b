"""A finished run."""

from __future__ import annotations

import json
import shutil
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
