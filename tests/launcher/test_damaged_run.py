"""JSON files of a run that were damaged or edited: commands end with a line that names the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from capdist.commands.main import main
from capdist.inference.run_folder import find_checkpoint
from shards.manifest import Manifest
from tests.support.runs import checkpoint, refused, train

#: The commands that read each file; ``best`` and ``last`` are checkpoints.
COMMANDS = {
    "config.json": ("evaluate", "report", "results", "export"),
    "versions.json": ("results",),
    "checkpoints/names.json": ("evaluate", "caption", "results", "export"),
    "best/config.json": ("evaluate", "caption", "export"),
    "best/vocab.json": ("evaluate", "caption", "export"),
    "scores/val-beam1.json": ("report", "results"),
    "captions/val-beam1.json": ("report", "results"),
}

pytestmark = pytest.mark.usefixtures("without_java")


@pytest.fixture(scope="module")
def scored(without_java: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run, with scores."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("scored") / "run"))
    assert main(["evaluate", "--run", str(run), "--split", "val", "--beam", "1"]) == 0
    return run


@pytest.mark.parametrize("content", ["{}", "3", '[{"a": 1}]'])
@pytest.mark.parametrize("file", COMMANDS)
def test_a_damaged_file_is_named(
    file: str,
    content: str,
    scored: Path,
    tiny: Manifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(scored, tmp_path / "run"))
    folder, name = run, file
    if best := find_checkpoint(run, file.partition("/")[0]):
        folder, name = best, file.partition("/")[2]
    (folder / name).write_text(content)
    own = ("--run", str(run))
    arguments = {
        "evaluate": (*own, "--split", "val", "--beam", "1"),
        "caption": (*own, "--shards", str(tiny.root), "--out", str(tmp_path / "captions.json")),
        "report": (str(run), "--out", str(tmp_path / "report.html")),
        "results": (*own, "--split", "val", "--out", str(tmp_path / "page.md")),
        "export": (*own, "--out", str(tmp_path / "export")),
    }
    for command in COMMANDS[file]:
        capsys.readouterr()
        assert main([command, *arguments[command]]) == 2
        assert str(folder / name if content != "{}" else run) in capsys.readouterr().err


@pytest.mark.parametrize("file", ["config.json", "progress.json"])
def test_training_does_not_resume_from_a_damaged_checkpoint(file: str, run: Path) -> None:
    path = checkpoint(run, "last") / file
    path.write_text("{}")
    result = train(run / "config.json", "--resume", "auto", "--set", f"run={run}")
    assert f"{path}: " in refused(result)
