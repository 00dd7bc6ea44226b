"""The worked examples of CONTRIBUTING.md, in a copy of the project, pass its contract tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.processes import environment

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
#: A file's name in a code span at the end of a paragraph, and the block that is its content.
FILE = re.compile(
    r"`((?:capdist|shards|configs|tests)/[\w/.]+)`:?,?[^\n]*\n\n```(?:python|json)\n(.*?)```",
    re.DOTALL,
)
#: Lines that a step adds to files, each group after the line before it.
CHANGES = re.compile(r"```diff\n(.*?)```", re.DOTALL)
#: A function that a step adds to a file of the tests, and the list that names it there.
HELPER = re.compile(r"```python\n(def json_folder\(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with all examples."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("capdist", "shards", "configs", "launcher", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name, text in FILE.findall(GUIDE):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(text, encoding="utf-8")
    for changes in CHANGES.findall(GUIDE):
        apply(copy, changes)
    (helper,) = HELPER.findall(GUIDE)
    formats = copy / "tests/support/format_files.py"
    before, listed, after = formats.read_text().partition("\nFEATURE_FILES")
    after = after.replace("for write in (\n", "for write in (\n        json_folder,\n", 1)
    formats.write_text(f"{before}\n{helper}\n{listed}{after}")
    (copy / "docs").mkdir()
    return copy


def apply(copy: Path, changes: str) -> None:
    """Add the lines with a + after the line above them, which a file has once."""
    for change in changes.split("--- ")[1:]:
        name, *lines = change.splitlines()
        for before, line in pairwise(lines):
            if line.startswith("+"):
                text = (copy / name).read_text()
                assert text.count(f"\n{before[1:]}\n") == 1, f"{name}: {before}"
                added = f"\n{before[1:]}\n{line[1:]}\n"
                (copy / name).write_text(text.replace(f"\n{before[1:]}\n", added))


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=environment(PYTHONPATH=str(project), TRITON_INTERPRET="1"),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_examples_are_found() -> None:
    names = [name for name, _ in FILE.findall(GUIDE)]
    assert names == [
        "capdist/models/gru.py",
        "configs/gru.json",
        "capdist/objectives/focal.py",
        "shards/extractors/scripted_grid.py",
        "shards/members/sharpness.py",
        "tests/data/test_sharpness.py",
        "shards/formats/json_folder.py",
        "capdist/rewards/word_f1.py",
        "capdist/kernels/region_mean/reference.py",
        "capdist/kernels/region_mean/triton_kernel.py",
        "capdist/kernels/region_mean/__init__.py",
        "tests/kernels/test_region_mean.py",
    ]


def test_the_examples_pass_their_contracts(project: Path) -> None:
    assert run(project, "-m", "capdist.config.schema").returncode == 0
    names = {"gru": 4, "focal": 4, "json_folder": 4, "sharpness": 6, "word_f1": 4, "region_mean": 9}
    written = [name for name, _ in FILE.findall(GUIDE) if name.startswith("tests/")]
    tests = ("-p", "no:cacheprovider", "tests/contract", *written, "-k", " or ".join(names))
    result = run(project, "-m", "pytest", "-v", *tests)
    assert result.returncode == 0, result.stdout[-5000:]
    for name, least in names.items():
        found = re.findall(rf"{name}.* PASSED", result.stdout)
        assert len(found) >= least, f"{name}: {found}"


def test_the_backbone_of_the_example_makes_features(project: Path) -> None:
    program = """
import torch
from pathlib import Path
from PIL import Image
from shards.extractors import PictureFeatures
from shards.pictures import read_picture

network = torch.nn.Conv2d(3, 5, 64, 64)
torch.jit.trace(network, torch.zeros(1, 3, 448, 448)).save("network.pt")
Image.new("RGB", (200, 100), (10, 200, 30)).save("photo.png")
features = PictureFeatures.open("scripted_grid:network.pt", None)
print(features.spec.dim)
"""
    result = run(project, "-c", program)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == ["5"]
