"""The page of every command and option, docs/reference/commands.md, from the parsers.

python -m website.commands_page writes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.command import new_parser as bench_parser
from capdist.commands.main import new_parser as capdist_parser
from shards.__main__ import new_parser as shards_parser

PAGE = Path("docs/reference/commands.md")
HEAD = """\
# Every command

`capdist COMMAND --help` prints the same. The scripts in [launcher](../../launcher) run the commands
of their names, for launchers that start a file: `deepspeed launcher/train.py ...` is
`capdist train ...` in several processes. [Exit statuses](exit_codes.md) are listed on a page of
their own. This page is made by `python -m website.commands_page`.
"""
_NO_DEFAULT = (None, False, argparse.SUPPRESS)


def commands_page() -> str:
    parts = [
        part for make in (capdist_parser, shards_parser, bench_parser) for part in _page(make())
    ]
    return "\n".join([HEAD, *parts])


def _page(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A section for a program, and one for each of its commands."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    yield f"## `{parser.prog}`\n\n{parser.description}\n"
    for shown in commands._choices_actions:
        command = commands.choices[shown.dest]
        said = _sentence(shown.help or "")
        yield f"### `{parser.prog} {shown.dest}`\n\n{said}\n\n{_table(command)}\n"


def _table(parser: argparse.ArgumentParser) -> str:
    rows = ["| option | meaning |", "|---|---|"]
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and action.dest != "help":
            rows.append(f"| {_option(action)} | {_meaning(action)} |")
    return "\n".join(rows)


def _option(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings)
    value = action.metavar or action.dest.upper() if action.nargs != 0 else ""
    if action.choices:
        value = "|".join(map(str, action.choices))
    if isinstance(value, tuple):
        value = " ".join(value)
    elif action.nargs == "+":
        value += " ..."
    elif action.nargs == "*":
        value = f"[{value} ...]"
    return f"`{f'{name} {value}'.strip()}`".replace("|", r"\|")


def _meaning(action: argparse.Action) -> str:
    said = " ".join((action.help or "").split()).replace("%%", "%").replace("|", r"\|")
    said = said.replace("*", r"\*")
    if action.required and action.option_strings:
        said = f"{said} (required)"
    stated = "default" in said or action.default in _NO_DEFAULT or action.default == []
    return said if stated else f"{said} (default: {action.default})"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


if __name__ == "__main__":
    PAGE.write_text(commands_page(), encoding="utf-8")
