"""The built package alone, away from the checkout, takes the embedded corpus from start to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import environment

ROOT = Path(__file__).parents[1]
CONFIG = {
    "description": "A small model.",
    "run": "run",
    "engine": "torch",
    "data": {"shards": "scenes", "min_count": 1, "workers": 0},
    "model": {"name": "glied", "width": 16, "embedding": 8, "heads": 2, "hidden": 24},
    "stages": [
        {
            "objective": "xe",
            "epochs": 1,
            "batch": {"images": 8, "micro": 8},
            "optimizer": {"lr": 0.01},
        }
    ],
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the installed package; a copy of the sources keeps the checkout clean."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-z", "capdist", "shards", "setup.py", "pyproject.toml", "README.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        target = folder / "sources" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "./sources")
    subprocess.run([*pip, *build], cwd=folder, check=True)
    (wheel,) = (folder / "dist").iterdir()
    site = folder / "site"
    install = ("install", "--no-deps", "--no-compile", "--target", str(site), str(wheel))
    subprocess.run([*pip, *install], cwd=folder, check=True)
    return site


@pytest.mark.usefixtures("without_java")
def test_the_embedded_corpus_from_start_to_end(installed: Path, tmp_path: Path) -> None:
    def run(*command: str) -> str:
        result = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment(PYTHONPATH=str(installed)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-2000:]
        return result.stdout

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    where = run("-c", "import capdist, shards; print(capdist.__file__, shards.__file__)")
    assert where.count(str(installed)) == 2
    run("-m", "shards", "scenes", "--train", "16", "--val", "4", "--test", "4", "--out", "scenes")
    run("-m", "capdist", "train", "--config", "config.json")
    scores = run("-m", "capdist", "evaluate", "--run", "run", "--split", "test")
    assert "CIDEr" in scores
    report = tmp_path / "run" / "report.html"
    assert "uPlot" in report.read_text(encoding="utf-8")
