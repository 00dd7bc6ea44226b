"""Every block of every page runs, on tiny data, or another test runs it, or it is marked.

A block that needs what a test does not have says so: ``<!-- needs a GPU -->``. Of commands that
differ in values only, the first is run; tests/website/test_commands.py parses all of them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capdist.config.run_config import parse_config
from shards.scenes import SceneSource
from shards.writer import write
from tests.support.command_checks import find_parser, is_known
from tests.support.command_runs import ELSEWHERE, NEEDS, kind, on_tiny_data, run, run_elsewhere
from tests.support.documentation import PAGES, ROOT, Command, blocks, commands
from tests.support.reader import furnish, stand_ins

#: Commands in the order in which a reader needs their results.
ORDER = ("scenes", "build", "features", "extract", "verify", "inspect", "train")
ORDER += ("new", "evaluate", "concepts")
CODE = ("bash", "python", "json", "flow", "diff")
#: What is only shown: output, trees of folders, other programs' settings.
SHOWN = ("", "text", "nginx")
#: Pages whose examples in Python and JSON another test runs or compares, and their number.
EXAMPLES = {
    "CONTRIBUTING.md": ("tests/test_contributing.py::test_the_examples_pass_their_contracts", 13),
    "README.md": ("tests/test_readme.py::test_the_readmes_python_example_captions_photographs", 2),
    "docs/workers.md": (
        "tests/workers/test_reward_pool.py::test_three_actors_equal_the_in_process_pool",
        1,
    ),
    "docs/serve.md": ("tests/serving/test_api.py::test_an_answer_is_what_the_captioner_says", 1),
}
#: Files that have the form of the JSON that a page shows.
FILES = {
    "docs/guides/decode.md": ["n_best.json"],
    "shards/README.md": [
        "corpus/mine/manifest.json",
        "corpus/mine/train-00000.index.json",
        "corpus/from_files/manifest.json",
        "corpus/flickr8k/concepts.json",
    ],
}
BLOCKS = [block for page in PAGES for block in blocks(page)]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def all_commands() -> Iterator[Command]:
    """Of all blocks, and what ``make train`` runs."""
    for page in PAGES:
        for command in commands(page):
            if not command.span and (command.stated or is_known(command)):
                yield command
    recipe = re.search(r"^train:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    for line in recipe[1].splitlines():
        yield Command(ROOT / "Makefile", tuple(shlex.split(line)))


def is_run_here(command: Command) -> bool:
    """Whether it is neither marked, nor run by another test, nor a part of a command.

    What ``make train`` runs is in `all_commands`, and `test_extras_exist` is about pip.
    """
    here = command.mark not in NEEDS and not run_elsewhere(command)
    return here and command.words[0] not in ("--set", "pip") and command.words != ("make", "train")


def to_run() -> list[tuple[str, list[str], Command]]:
    """Programs and words of one command of each kind, in an order in which they can run."""
    found: dict[tuple[object, ...], tuple[str, list[str], Command]] = {}
    for command in filter(is_run_here, all_commands()):
        program, *words = command.words
        ours = program in ("capdist", "python", "deepspeed", "torchrun")
        parser, words = find_parser(command, program, words) if ours else (None, words)
        assert parser, f"{command}: mark its block, or add the test that runs it to ELSEWHERE"
        program = "shards" if parser.prog == "python -m shards" else "capdist"
        found.setdefault((program, *kind(words)), (program, words, command))
    return sorted(found.values(), key=lambda each: rank(each[1]))


def rank(words: list[str]) -> int:
    step = "new" if "--concepts-from" in words else words[0]
    return ORDER.index(step) if step in ORDER else len(ORDER)


@pytest.mark.usefixtures("without_java")
def test_commands_and_files_of_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    furnish(tmp_path, write(SceneSource(0, 16, 4, 4), tmp_path / "scenes", workers=1))
    monkeypatch.chdir(tmp_path)
    failed, trained = [], False
    for number, (program, words, command) in enumerate(to_run()):
        if rank(words) > ORDER.index("train") and not trained:
            stand_ins(tmp_path)
            trained = True
        given = on_tiny_data(words, number)
        capsys.readouterr()
        if run(program, given):
            said = capsys.readouterr().err.strip().splitlines()[-1]
            failed.append(f"{command}\n  run as {shlex.join(given)}\n  {said}")
    assert not failed, "\n".join(failed)
    for page, files in FILES.items():
        shown = [block for block in blocks(ROOT / page) if block.language == "json"]
        for block, file in zip(shown, files, strict=True):
            real = json.loads((tmp_path / file).read_text())
            assert keys(json.loads(block.code)) <= keys(real), f"{page} shows another {file}"


def keys(value: Any) -> set[str]:
    """All keys of JSON, but names of files."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    return {key for key in value if "." not in key}.union(*map(keys, value.values()))


def test_code_has_a_language_that_is_tested() -> None:
    for block in BLOCKS:
        assert block.language in (*CODE, *SHOWN), f"{name(block.page)}: ```{block.language}"
        mark_is_known = block.mark in (*NEEDS, "runs", "")
        assert mark_is_known, f"{name(block.page)}: {block.mark}: expected one of {NEEDS}"


@pytest.mark.parametrize("page", EXAMPLES)
def test_examples_of_other_tests_are_counted(page: str) -> None:
    where, number = EXAMPLES[page]
    shown = [b for b in blocks(ROOT / page) if b.language in ("python", "json") and not b.mark]
    assert len(shown) == number, f"{page}: does {where} run the new example? Then count it"


def test_python_is_run() -> None:
    # tests/website/test_pages.py runs those with a mark.
    for block in BLOCKS:
        runs = block.mark == "runs" or name(block.page) in EXAMPLES
        assert runs or block.language != "python", (
            f"{name(block.page)}: write <!-- runs --> above the block: {block.code}"
        )


def test_json_is_a_part_of_a_config_or_of_a_file_that_is_compared() -> None:
    glied = json.loads((ROOT / "configs/glied.json").read_text())
    progress = (ROOT / "shards/progress.py").read_text()
    for block in BLOCKS:
        if block.language != "json" or name(block.page) in (*EXAMPLES, *FILES):
            continue
        if block.code.startswith("{"):  # lines of a log
            lines = [json.loads(line) for line in block.code.splitlines()]
            assert all(f'"{key}"' in progress for key in keys(lines)), block.code
            continue
        given = json.loads("{" + block.code.replace(', "...": "..."', "") + "}")
        stage = glied["stages"][0]
        stage |= {"optimizer": given.pop("optimizer", stage["optimizer"])}
        stages = [stage | part for part in given.pop("stages", [{}])]
        parse_config(glied | given | {"stages": stages}, name(block.page))


def test_the_tests_that_run_commands_exist() -> None:
    for where in {*ELSEWHERE.values(), *(where for where, _ in EXAMPLES.values())}:
        file, _, test = where.partition("::")
        assert f"def {test}(" in (ROOT / file).read_text() or not test, where


def test_extras_exist() -> None:
    extras = set(re.findall(r'^        "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE))
    installed = [command for command in all_commands() if command.words[0] == "pip"]
    for command in installed:
        assert command.words[1] == "install"
        for named in re.findall(r"\[(.+)\]", " ".join(command.words)):
            assert set(named.split(",")) <= extras, f"{command}: no such extra"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("capdist evaluate --run runs/none", "runs/none: no best checkpoint"),
        ("python -m shards inspect corpus/scenes --split dev", "no split 'dev'"),
    ],
)
def test_a_command_that_fails_is_found(
    line: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(SceneSource(0, 2, 1, 1), tmp_path / "corpus/scenes", workers=1)
    monkeypatch.chdir(tmp_path)
    command = Command(ROOT / "README.md", tuple(shlex.split(line)))
    assert is_run_here(command)
    program = "shards" if "shards" in line else "capdist"
    words = find_parser(command, command.words[0], list(command.words[1:]))[1]
    assert run(program, on_tiny_data(words, 0)) != 0
    assert said in capsys.readouterr().err


def test_a_command_that_nothing_runs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    new = Command(ROOT / "README.md", ("python", "-m", "this"))
    monkeypatch.setitem(globals(), "all_commands", lambda: iter([new]))
    with pytest.raises(AssertionError, match="mark its block, or add the test"):
        to_run()
