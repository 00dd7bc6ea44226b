"""Every command that a page shows is accepted by its parser, and names what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from capdist.config.base import ConfigError
from tests.support.command_checks import EXAMPLES, check, is_known
from tests.support.documentation import PAGES, ROOT, Command, blocks, commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_accepted(page: Path) -> None:
    for command in commands(page):
        if command.stated or is_known(command):
            check(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_configs_that_code_names_exist(page: Path) -> None:
    for block in blocks(page):
        for path in re.findall(r"\bconfigs/[\w/-]+\.json", block.code):
            assert path in EXAMPLES or "NAME" in path or (ROOT / path).is_file(), path


@pytest.mark.parametrize(
    "line",
    [
        "capdist train --confg configs/glied.json",
        "capdist train --config configs/glide.json",
        "capdist train --config configs/glied.json --set data.min_cuont=3",
        "deepspeed launcher/train.py --config configs/glied.json --set model.nope=1",
        "python -m shards build --annotations a.json --feature f --out",
        "python launcher/none.py",
        "python launcher/bench.py decode --beams 3",
        "make tests",
        "sbatch launcher/slurm/train.sbatch configs/glied.json",
        "frobnicate",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises((AssertionError, ConfigError)):
        check(Command(ROOT / "README.md", tuple(line.split())))
