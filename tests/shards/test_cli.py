import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards.__main__ import main
from shards.manifest import Manifest
from shards.writer import write
from tests.support.format_files import IDS, coco_captions, cocobu
from tests.support.samples import NumberSource


@pytest.fixture
def build_arguments(tmp_path: Path) -> list[str]:
    """The arguments of a build of 12 images."""
    sentence = {"raw": "A dog .", "tokens": ["a", "dog"]}
    images = [
        {"filename": f"{n}.jpg", "imgid": n, "split": "train", "sentences": [sentence]}
        for n in range(12)
    ]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images}))
    arrays = {"imgid": np.arange(12), "scale": np.ones(3, np.float32)}
    np.savez(tmp_path / "features.npz", feat=np.ones((12, 4, 3), np.int8), **arrays)
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    return [
        "build",
        *("--annotations", str(tmp_path / "captions.json")),
        *("--features", str(tmp_path / "features.npz")),
        *("--class-names", str(tmp_path / "names.txt")),
        *("--out", str(tmp_path / "out")),
    ]


def test_build_then_verify_then_inspect(
    build_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--samples-per-shard", "5", "--workers", "1", "--feature-name", "ones"]
    assert main([*build_arguments, *more]) == 0
    manifest = Manifest.load(tmp_path / "out")
    assert (manifest.features.name, manifest.class_names) == ("ones", ("cat", "dog"))
    assert [shard.samples for shard in manifest.shards] == [5, 5, 2]
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert "no problems: " in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "out"), "--number", "11"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("sample 000000000011: image 11")
    assert "concepts: 1: dog 1.00" in shown


def test_build_of_several_files_with_all_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, _ = coco_captions(tmp_path, "train", IDS[:4])
    val, _ = coco_captions(tmp_path, "val", IDS[4:])
    folder = cocobu(tmp_path).path
    (folder / f"{IDS[1]}.npz").write_bytes(b"")
    arguments = [
        "build",
        *("--annotations", str(train), str(val)),
        *("--features", str(folder)),
        *("--sizes", str(tmp_path / "captions_*.json")),
        *("--storage", "int8", "--max-bad", "1", "--concepts", "0", "--workers", "1"),
        *("--out", str(tmp_path / "out")),
    ]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("paired by id: image 42 (42.jpg) with features 42, image 9 ")
    assert lines[1].startswith(
        f"bad: {folder / str(IDS[1])}.npz: damaged, or not an npy or npz file"
    )
    assert lines[2].startswith("int8: relative RMS error ")
    assert "images: train 3, val 2, 1 left out; features cocobu, width 5, int8" in lines[3]


def test_verify_lists_problems_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(NumberSource(), tmp_path, workers=1)
    (tmp_path / "train-00000.tar").unlink()
    (tmp_path / "val-00000.index.json").unlink()
    assert main(["verify", str(tmp_path)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "nowhere"], "nowhere/manifest.json: no manifest"),
        (["inspect", "nowhere"], "nowhere: no such folder or tar"),
        (["build", "--annotations", "a", "--features", "b", "--out", "c"], "a: no such file"),
    ],
)
def test_errors_are_one_line_and_exit_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["build", "scenes", "inspect", "verify"])
def test_commands_have_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_build_as_a_program_with_worker_processes(build_arguments: list[str]) -> None:
    root = str(Path(__file__).parents[2])
    command = [
        sys.executable,
        "-m",
        "shards",
        *build_arguments,
        "--workers",
        "2",
        "--concepts",
        "0",
    ]
    environment = {**os.environ, "PYTHONPATH": root}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "1 shards, images: train 12" in process.stdout


def test_scenes_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--train", "2", "--val", "1", "--test", "1", "--workers", "1"]
    assert main(["scenes", "--out", str(tmp_path), *sizes]) == 0
    assert "train 2, val 1, test 1" in capsys.readouterr().out
    picture = tmp_path / "picture.png"
    assert main(["inspect", str(tmp_path), "--split", "val", "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
