"""What the Markdown pages contain: their code, and the commands in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for pattern in ("*.md", "docs/**/*.md", "shards/**/*.md", "capdist/**/*.md")
    for page in sorted(ROOT.glob(pattern))
    if page.name != "CHANGELOG.md"
]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]+) -->\n+)?"
    r"(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
#: Languages of blocks that may contain commands; "": none is stated.
_SHELL = ("bash", "")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """Fenced code; ``mark`` is the comment above it, "" if there is none."""

    page: Path
    mark: str
    language: str
    code: str


@dataclass(frozen=True)
class Command:
    """Words of a command line.

    ``stated``: its block says that it is code of a shell; ``span``: it is part of a text; ``mark``
    is that of its block.
    """

    page: Path
    words: tuple[str, ...]
    mark: str = ""
    stated: bool = True
    span: bool = False

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {shlex.join(self.words)}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, found["mark"] or "", found["language"], found["code"])
        for found in _BLOCK.finditer(text)
    ]


def commands(page: Path) -> Iterator[Command]:
    """The commands of a page's blocks, and those that its text has between backticks."""
    for block in blocks(page):
        if block.language in _SHELL:
            for words in _command_lines(block.code):
                yield Command(page, words, block.mark, stated=block.language != "")
    for span in _SPAN.findall(_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        for words in _command_lines(span.replace(r"\|", "|")):
            yield Command(page, words, stated=False, span=True)


def _command_lines(code: str) -> Iterator[tuple[str, ...]]:
    """The words of every command; of what is optional or a choice, the first possibility."""
    for line in re.sub(r"\\\n\s*", " ", code).splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # not a command line
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if word in (";", "&&", "|", ">"):
                if words_left := tuple(_without_environment(command)):
                    yield words_left
                command = []
            elif word not in ("...", "...]") or (command and command[-1].startswith("--")):
                command.append(_first_choice(word))


def _first_choice(word: str) -> str:
    """``[--resume`` and ``auto]`` without brackets, the first of ``best|last``."""
    if word.startswith("[") or (word.endswith("]") and "[" not in word):
        return word.strip("[]").partition("|")[0]
    return word


def _without_environment(words: list[str]) -> list[str]:
    """Without variables that are set for the command alone."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words
