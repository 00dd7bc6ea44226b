"""Paths that can't be read or written: one line and status 2, before anything is computed."""

from __future__ import annotations

import codecs
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import shards.__main__
from benchmarks import command as benchmarks
from capdist.commands.main import new_parser
from capdist.config.run_config import load_config
from capdist.errors import exit_status
from shards.manifest import Manifest
from tests.support.runs import checkpoint, refused, train


def status_of(arguments: list[str]) -> int:
    """Run a command in this process, up to its exit status."""
    if arguments[0] == "shards":
        return shards.__main__.main(arguments[1:])
    if arguments[0] == "bench":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            return benchmarks.main()
    args = new_parser().parse_args(arguments)
    return exit_status(lambda: args.command.run(args))


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that refuses its input."""
    status = status_of(arguments)
    printed = capsys.readouterr().err
    assert status == 2, printed
    (line,) = printed.splitlines()
    assert line.startswith("error: ")
    return line


#: Commands that write a file, and those that write into a folder; RUN, SHARDS and OUT are replaced.
FILES = {
    "caption": "caption --run RUN --shards SHARDS --out OUT",
    "photographs": "caption --run RUN --image a.jpg --out OUT",
    "submission": "caption --submission x --results a.json b.json --out OUT",
    "results": "results --run RUN --out OUT",
    "timeline": "results --run RUN --out /dev/null --timeline OUT",
    "picture": "shards inspect SHARDS --picture OUT",
    "figures": "bench order --json OUT",
    "page": "bench order --page OUT",
}
FOLDERS = {
    "evaluate": "evaluate --run RUN --out OUT",
    "sweep": "sweep OUT.json",
    "scenes": "shards scenes --out OUT",
    "build": "shards build --annotations a.json --features f.tsv --out OUT",
    "extract": "shards extract --images a --backbone transformers:b --out OUT",
}


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own in a folder, for as long as the block lasts."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", *options, "tmpfs", folder], check=False)
    if made.returncode:
        pytest.skip("this user can't mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def unusable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Folders, by what is wrong with them."""
    root = tmp_path_factory.mktemp("unusable")
    (root / "file").write_text("not a folder")
    with (
        mounted(root / "full", "size=64k") as full,
        mounted(root / "read-only", "ro") as read_only,
    ):
        with suppress(OSError), (full / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(4096))
        yield {"full": full, "read-only": read_only, "file": root / "file"}


EXPECTED = {
    "full": "No space left on device; free disk space, or give another path",
    "read-only": "Read-only file system; give another path",
    "file": "is a file; give a folder",
}


def filled(words: str, run: Path, tiny: Manifest, out: Path) -> list[str]:
    """A command's words with their paths; the sweep file names its folder itself."""
    if words == FOLDERS["sweep"]:
        path = run.parent / "sweep.json"
        rows = {"a": {"config": str(run.parent / "config.json")}}
        path.write_text(json.dumps({"folder": str(out), "rows": rows}))
        return ["sweep", str(path)]
    paths = {"RUN": str(run), "SHARDS": str(tiny.root), "OUT": str(out)}
    return [paths.get(word, word) for word in words.split()]


@pytest.mark.parametrize("words", [*FILES.values(), *FOLDERS.values()], ids=[*FILES, *FOLDERS])
@pytest.mark.parametrize("kind", EXPECTED)
def test_results_that_cannot_be_written_are_refused_first(
    words: str,
    kind: str,
    unusable: dict[str, Path],
    trained: Path,
    tiny: Manifest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = unusable[kind] / "result" if words in FILES.values() else unusable[kind]
    line = refusal(filled(words, trained, tiny, out), capsys)
    expected = EXPECTED[kind]
    if words.startswith("evaluate") and kind != "file":
        expected = f"{expected.partition(';')[0]}; give another folder for the results by --out"
    assert line == f"error: {unusable[kind]}: {expected}"


@pytest.mark.parametrize("words", FILES.values(), ids=FILES)
def test_a_folder_in_place_of_a_result_is_refused_first(
    words: str,
    trained: Path,
    tiny: Manifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refusal(filled(words, trained, tiny, tmp_path), capsys)
    assert line == f"error: {tmp_path}: is a folder; give a file"


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_run_folder_that_cannot_be_written_is_refused(
    kind: str, unusable: dict[str, Path], config: Path
) -> None:
    line = refused(train(config, "--set", f"run={unusable[kind]}"))
    assert line == f"error: {unusable[kind]}: {EXPECTED[kind]}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train --config FOLDER", "FOLDER: Is a directory; give a file"),
        ("train --config FILE/x.json", "FILE/x.json: Not a directory; a part of the path is a"),
        ("sweep FOLDER", "FOLDER: Is a directory; give a file"),
        ("evaluate --run FILE", "FILE: no best checkpoint; train first, or give another --run"),
        ("evaluate --run FOLDER", "FOLDER: no best checkpoint; train first, or give another --run"),
        ("evaluate --run RUN --shards FILE", "FILE/manifest.json: no manifest"),
        ("evaluate --results FOLDER --shards SHARDS", "FOLDER: Is a directory"),
        ("evaluate --results FILE --shards SHARDS", "FILE: not JSON"),
        ("evaluate --results FILE/x --shards SHARDS", "FILE: is a file; give a folder"),
        ("shards concepts --run FOLDER --shards SHARDS", "FOLDER: no concept predictor"),
        ("caption --run FOLDER --shards SHARDS --out OUT", "FOLDER: no best checkpoint"),
        ("caption --run RUN --shards FOLDER --out OUT", "FOLDER/manifest.json: no manifest"),
        ("caption --run RUN --features FOLDER --out OUT", "FOLDER: "),
        ("caption --run RUN --features FILE/x --out OUT", "FILE/x: no such file"),
        ("caption --run RUN --shards SHARDS --forced FOLDER --out OUT", "FOLDER: Is a directory"),
        ("caption --run RUN --image FOLDER", "FOLDER: not a file; give the path of a picture"),
        ("caption --run RUN --image FILE/x.jpg", "FILE/x.jpg: no such file; give the path of a"),
        ("shards extract --images FILE --backbone timm:x --out OUT", "FILE: no such folder"),
        ("shards extract --images FOLDER --backbone timm:x --out OUT", "FOLDER: no pictures"),
        ("caption --submission x --results FOLDER FOLDER --out OUT", "FOLDER: Is a directory"),
        ("concepts --run FOLDER --shards SHARDS", "FOLDER: no concept detector"),
        ("results --run FOLDER --out OUT", "FOLDER/config.json: no such file"),
        ("shards inspect FOLDER", "FOLDER/manifest.json: no manifest"),
        ("shards inspect FILE", "FILE: "),
        ("shards verify FILE", "FILE/manifest.json: no manifest"),
        ("shards concepts --run FILE", "FILE/concepts/concepts.json: no such file"),
        ("shards build --annotations FOLDER --features FILE --out OUT", "FOLDER: unknown format"),
        ("shards build --annotations FILE --features FILE --out OUT", "FILE: unknown format"),
    ],
)
def test_inputs_of_the_wrong_kind_are_refused(
    words: str,
    expected: str,
    trained: Path,
    tiny: Manifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "FILE").write_text("x")
    (tmp_path / "FOLDER").mkdir()
    line = refusal(
        [
            word.replace("FILE", str(tmp_path / "FILE")).replace("FOLDER", str(tmp_path / "FOLDER"))
            for word in filled(words, trained, tiny, tmp_path / "out")
        ],
        capsys,
    )
    assert line.startswith(f"error: {tmp_path}/{expected}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("caption --run r --features f --out o --n-best 0", "argument --n-best: expected a whole"),
        ("evaluate --run r --workers -1", "argument --workers: expected a whole number from 0 on"),
        ("evaluate --run r --beam x", "argument --beam: expected a whole number from 1 on"),
        ("shards build --annotations a --features f --out o --concepts -3", "argument --concepts:"),
        ("shards scenes --out o --train 0", "argument --train: expected a whole number from 1 on"),
        ("bench order --samples 0", "argument --samples: expected a whole number from 1 on"),
        ("train", "the following arguments are required: --config"),
        ("evaluate --rum r", "unrecognized arguments: --rum r"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    words: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        status_of(words.split())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {expected}")
    assert line.endswith("--help")


def test_a_damaged_model_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = checkpoint(run, "best") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    line = refusal(["evaluate", "--run", str(run)], capsys)
    assert line.startswith(f"error: {weights}: damaged (")


def test_a_config_may_begin_with_a_byte_order_mark(config: Path) -> None:
    before = load_config(config)
    config.write_bytes(codecs.BOM_UTF8 + config.read_bytes())
    assert load_config(config) == before
