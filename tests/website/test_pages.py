"""Pages that are made from code are current, and code on pages runs."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import pytest

from shards.manifest import Manifest
from tests.support.documentation import PAGES, ROOT, Block, blocks
from tests.support.photographs import photograph, photograph_shards, untrained_run
from website.commands_page import PAGE, commands_page
from website.model_pages import fill, papers_table

PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]
RUNS = "runs"


def test_the_page_of_commands_is_current() -> None:
    # python -m website.commands_page
    assert (ROOT / PAGE).read_text(encoding="utf-8") == commands_page()


def test_every_model_has_a_page() -> None:
    folder = ROOT / "capdist/models"
    models = {file.name for file in folder.glob("*.py") if "\n@register(" in file.read_text()}
    pages = "".join(page.read_text() for page in (ROOT / "docs/models").glob("*.md"))
    described = set(re.findall(r"<!-- module: (\w+\.py) -->", pages))
    assert models <= described, f"write docs/models/ pages about {models - described}"


def test_a_models_page_has_the_scores_and_the_code() -> None:
    marks = "<!-- scores: glied | base -->\n<!-- module: nic.py -->\n<!-- configs: nic -->"
    head, rows = papers_table("glied")
    score = rows[0][head.index("CIDEr")]
    filled = fill(marks)
    assert re.search(rf"^\| base \| .*\| {score} \|", filled, re.MULTILINE)
    assert "class Nic(" in filled
    assert "[nic_mia.json](../../configs/nic_mia.json)" in filled


def test_a_row_that_a_sweep_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"glied has no rows \{'GLEID'\}"):
        fill("<!-- scores: glied | GLEID -->")


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.page.stem)
def test_python_examples_compile(block: Block) -> None:
    ast.parse(block.code)


@pytest.fixture(scope="module")
def folder(tiny: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples name: a run, photographs, and shards."""
    folder = tmp_path_factory.mktemp("examples")
    untrained_run(photograph_shards(folder), folder / "runs/mine")
    for number, name in enumerate(("photo.jpg", "a.jpg", "b.jpg")):
        photograph(number).save(folder / name)
    (folder / "corpus").mkdir()
    os.symlink(tiny.root, folder / "corpus/scenes")
    return folder


@pytest.mark.parametrize(
    "block", [b for b in PYTHON if b.mark == RUNS], ids=lambda block: block.page.stem
)
def test_examples_that_are_marked_run(
    block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(block.code, names)
    assert capsys.readouterr().out


def test_environment_variables_that_the_code_reads_are_described() -> None:
    page = (ROOT / "docs/reference/environment.md").read_text()
    read = r"""environ(?:\.get\(|\.setdefault\(|\[)\s*["'](\w+)["']"""
    for root in ("capdist", "shards", "launcher"):
        for file in (ROOT / root).rglob("*.py"):
            for name in re.findall(read, file.read_text()):
                known = name in page or name == "PATH"
                assert known, f"{file}: docs/reference/environment.md does not have {name}"


def test_the_citation_states_the_version() -> None:
    stated = re.search(r'version="(.+)"', (ROOT / "setup.py").read_text())
    assert stated
    assert f"\nversion: {stated[1]}\n" in (ROOT / "CITATION.cff").read_text()
