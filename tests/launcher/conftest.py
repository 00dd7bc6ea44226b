"""A finished run, and a PATH on which Java fails."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import train


@pytest.fixture(scope="session")
def trained(tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "config.json"
    path.write_text(json.dumps({**tiny_config, "run": str(folder / "run")}))
    result = train(path)
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """First on the path: a Java that fails at once, for it is slow and proves nothing here."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "java").write_text("#!/bin/sh\nexit 1\n")
    (folder / "java").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield folder
