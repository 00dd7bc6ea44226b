"""What the Markdown pages say: links that resolve, an example that runs, sizes that are true."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from capdist.config.base import ConfigError
from capdist.config.run_config import load_config
from capdist.models.base import Dims, build
from capdist.training.run import train
from shards.manifest import Manifest
from tests.support.photographs import photograph, photograph_shards, untrained_run

ROOT = Path(__file__).parents[1]
#: COCO's usual sizes: bottom-up features, its vocabulary, Visual Genome's classes.
COCO = Dims(2048, 9_488, 1_600)
PAGES = [
    page
    for pattern in ("*.md", "docs/**/*.md", "shards/**/*.md", "capdist/**/*.md")
    for page in sorted(ROOT.glob(pattern))
]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
#: Files that the walks in CONTRIBUTING.md make, and pages that `make gpu` makes.
EXAMPLES = {
    "capdist/models/gru.py",
    "configs/gru.json",
    "shards/formats/json_folder.py",
    "shards/extractors/scripted_grid.py",
    "capdist/objectives/focal.py",
    "shards/members/sharpness.py",
    "tests/data/test_sharpness.py",
    "capdist/rewards/word_f1.py",
    "capdist/kernels/region_mean/reference.py",
    "capdist/kernels/region_mean/triton_kernel.py",
    "capdist/kernels/region_mean/__init__.py",
    "tests/kernels/test_region_mean.py",
}
TINY_MODEL = '{"name": "glied", "width": 16, "embedding": 8, "heads": 2, "hidden": 24}'


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link} does not exist"
        if anchor:
            assert anchor in anchors(target), f"{page}: {link}: no such heading"


def test_paths_in_code_spans_exist() -> None:
    """Files that a page names between backticks, from the repository's root."""
    roots = "capdist|shards|benchmarks|launcher|configs|tests|docs"
    for page in PAGES:
        for path in re.findall(
            rf"`((?:{roots})/[\w./-]+\.(?:py|json|md|sbatch|sh))`", page.read_text()
        ):
            assert path in EXAMPLES or (ROOT / path).exists(), f"{page}: {path} does not exist"


def test_files_that_the_architecture_names_exist() -> None:
    named = set(re.findall(r"\b\w+\.py\b", (ROOT / "docs/architecture.md").read_text()))
    roots = ("capdist", "shards", "benchmarks", "launcher", "tests")
    there = {path.name for root in roots for path in (ROOT / root).rglob("*.py")}
    assert named <= there, f"docs/architecture.md names {named - there}"


def test_the_readmes_python_example_captions_a_trained_run(
    tiny: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    os.symlink(tiny.root, "corpus/scenes")
    overrides = [f"model={TINY_MODEL}", "engine=torch", "data.min_count=1", "stages.0.epochs=1"]
    assert train(
        load_config(ROOT / "configs/glied.json", overrides), "configs/glied.json", resume=False
    )
    capsys.readouterr()
    exec(python_examples()[0], {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["2000", "2001", "2002", "2003", "2004"]


def test_the_readmes_python_example_captions_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    untrained_run(photograph_shards(tmp_path), tmp_path / "runs/mine")
    for number, name in enumerate(("photo.jpg", "other.jpg")):
        photograph(number).save(name)
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(python_examples()[1], names)
    assert names["found"].caption in capsys.readouterr().out
    assert names["many"][0].caption == names["found"].caption


def python_examples() -> list[str]:
    """The README's examples in Python."""
    text = (ROOT / "README.md").read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


def test_messages_about_config_values_are_the_ones_printed() -> None:
    """The table in docs/training.md of what ``--set`` prints; ... stands for more."""
    table = (ROOT / "docs/training.md").read_text().partition("| you wrote | it prints |")[2]
    rows = re.findall(r"^\| `(\S+=\S+)` \| `error: c\.json: (.+)` \|$", table, re.MULTILINE)
    assert len(rows) >= 6
    for override, said in rows:
        with pytest.raises(ConfigError) as refused:
            load_config(ROOT / "configs/glied.json", [override])
        pattern = re.escape(f"{ROOT}/configs/glied.json: {said}").replace(r"\.\.\.", ".*")
        assert re.fullmatch(pattern, str(refused.value)), f"{override}: {refused.value}"


def test_the_table_of_models_states_their_parameters() -> None:
    lines = (ROOT / "docs/models.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and "](../configs/" in line]
    assert len(rows) >= 17
    for row in rows:
        config, said = re.findall(r"\(\.\./(configs/\w+\.json)\)", row)[0], row.split(" | ")[4]
        with torch.device("meta"):
            model = build(load_config(ROOT / config, []).model, COCO)
        count = sum(parameter.numel() for parameter in model.parameters())
        assert said == f"{count / 1e6:.1f}", row
