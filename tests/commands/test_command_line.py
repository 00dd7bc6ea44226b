"""The command ``capdist``: its options, and that a wheel installs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from capdist.commands.main import COMMANDS, main, new_parser
from tests.support.processes import ROOT

EXTRACT = ["extract", "--images", "/nowhere", "--backbone", "b", "--out", "o"]
CAPTION = ["caption", "--out", "c.json", "--run", "r"]
HEAVY = ("torch", "numpy", "pydantic", "ray", "deepspeed")


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
def test_help_describes_every_command_and_option(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith(" ".join(["usage: capdist", *arguments, "[-h]"]))
    commands = [COMMANDS[name] for name in arguments or COMMANDS]
    assert all(command.HELP in printed for command in commands)


def test_the_command_line_is_parsed_without_heavy_imports() -> None:
    parse = (
        "from capdist.commands.main import new_parser; new_parser().parse_args(sys.argv[1:]); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    command = [sys.executable, "-c", f"import sys; {parse}", "train", "--config", "c.json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("name", ["train", "concepts"])
def test_deepspeed_may_put_its_option_first(name: str) -> None:
    needed = {"train": ["--config", "c"], "concepts": ["--run", "r", "--shards", "s"]}
    assert new_parser().parse_args([name, "--local_rank=1", *needed[name]]).local_rank == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["caption", "--out", "c.json"], "give --run, and one of --image, --shards and"),
        (
            ["caption", "--out", "c.json", "--run", "r", "--shards", "s", "--features", "f"],
            "give --run, and one of --image, --shards and",
        ),
        (["caption", "--out", "c.zip", "--submission", "x"], "give --results VAL TEST"),
        (
            [*CAPTION, "--shards", "s", "--max-bad", "1", "--concepts-from", "r"],
            "--max-bad, --concepts-from: not used with --shards, but with --features; leave out",
        ),
        ([*CAPTION, "--shards", "s", "--clip-boxes"], "--clip-boxes: not used with --shards"),
        ([*CAPTION, "--features", "f", "--results", "v", "t"], "not used without --submission"),
        (
            [*CAPTION, "--submission", "x", "--results", "v", "t"],
            "--run: not used with --submission, which packs captions",
        ),
        (
            ["evaluate", "--results", "c.json", "--beam", "2"],
            "--beam: not used with --results, which scores captions that exist",
        ),
        (["evaluate", "--run", "/nowhere"], "/nowhere"),
        ([*EXTRACT, "--ray", "--workers", "2"], "--workers: processes on this machine; leave"),
        ([*EXTRACT, "--ray", "--cpus", "0"], "--cpus 0 --gpus 0: expected more than 0 CPUs"),
        ([*EXTRACT, "--gpus", "1"], "--gpus: not used without --ray"),
        (["results", "--run", "/nowhere"], "/nowhere/config.json: no such file"),
        (["sweep", "/nowhere.json"], "/nowhere.json: no such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert message in line


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip has installed the package into."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "target"))
    for name in ("capdist", "shards", "benchmarks", "launcher"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    offline = ["--no-index", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([*pip, *offline, str(source)], check=True)
    return target


def test_a_wheel_has_the_package_and_nothing_else(installed: Path) -> None:
    folders = {folder.name for folder in installed.iterdir() if "-info" not in folder.name}
    assert folders == {"bin", "capdist", "shards"}
    assert (installed / "capdist" / "py.typed").is_file()
    assert (installed / "shards" / "py.typed").is_file()
    for package in ("capdist", "shards"):
        assert package_files(ROOT, package) == package_files(installed, package)


def package_files(root: Path, package: str) -> set[Path]:
    """The files of a package: code, templates, scripts and styles."""
    files = {file.relative_to(root) for file in (root / package).rglob("*") if file.is_file()}
    return {file for file in files if file.suffix != ".md" and "__pycache__" not in file.parts}


def test_the_installed_command_runs_anywhere(installed: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    for command in ([str(installed / "bin" / "capdist")], [sys.executable, "-m", "capdist"]):
        result = subprocess.run(
            [*command, "sweep", "none.json"],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (2, "error: none.json: no such file\n")
