"""The built package in an environment of its own takes the embedded corpus from start to end.

The environment has the package from its wheel and what it requires, directly or indirectly, with
the extra ``train``: these packages are linked from the environment of the tests, which is the same
for Python as installing them, except that it takes no minutes and no 5 GB. The checkout, packages
that nothing requires and other extras are not in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the environment; a copy of the sources keeps the checkout clean."""
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
    venv.create(folder / "environment")
    (site,) = (folder / "environment").glob("lib/python*/site-packages")
    install = ("install", "--no-deps", "--no-compile", "--target", str(site), str(wheel))
    subprocess.run([*pip, *install], cwd=folder, check=True)
    (metadata,) = site.glob("capdist-*.dist-info")
    for package in required(Distribution.at(metadata), {"train"}, set()):
        link(package, site)
    return folder / "environment/bin/python"


def required(of: Distribution, extras: set[str], seen: set[str]) -> Iterator[Distribution]:
    """What a package requires with extras, and what that requires."""
    for line in of.requires or ():
        wanted = Requirement(line)
        holds = (wanted.marker.evaluate({"extra": e}) for e in extras | {""} if wanted.marker)
        entry = f"{canonicalize_name(wanted.name)}{sorted(wanted.extras)}"
        if entry not in seen and (wanted.marker is None or any(holds)):
            seen.add(entry)
            found = distribution(wanted.name)
            yield found
            yield from required(found, set(wanted.extras), seen)


def link(package: Distribution, site: Path) -> None:
    """Put an installed package's files and folders into another folder of packages."""
    for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        if not (site / name).exists():
            (site / name).symlink_to(Path(str(package.locate_file(name))))


@pytest.mark.usefixtures("without_java")
def test_the_embedded_corpus_from_start_to_end(python: Path, tmp_path: Path) -> None:
    def run(*command: str) -> str:
        result = subprocess.run(
            [str(python), *command],
            cwd=tmp_path,
            env={**environment(), "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-2000:]
        return result.stdout

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    where = run("-c", "import capdist, shards; print(capdist.__file__, shards.__file__)")
    assert where.count(str(python.parents[1] / "lib")) == 2
    there = run("-c", "from importlib.util import find_spec as f; print(f('pytest'), f('fastapi'))")
    assert there.split() == ["None", "None"]
    run("-m", "shards", "scenes", "--train", "16", "--val", "4", "--test", "4", "--out", "scenes")
    run("-m", "capdist", "train", "--config", "config.json")
    scores = run("-m", "capdist", "evaluate", "--run", "run", "--split", "test")
    assert "CIDEr" in scores
    report = tmp_path / "run" / "report.html"
    assert "uPlot" in report.read_text(encoding="utf-8")
