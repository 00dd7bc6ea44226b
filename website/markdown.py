"""Markdown as GitHub reads it, for a reader that differs in a few places."""

from __future__ import annotations

import re
from collections.abc import Callable

FENCED = re.compile(r"^( *)(```+).*?^\1\2$", re.MULTILINE | re.DOTALL)


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """Text with a change made to all of it but fenced code."""
    parts, end = [], 0
    for fence in FENCED.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])


def as_on_github(text: str) -> str:
    """Nest lists that are indented by two spaces, and unescape | in the code of tables.

    What a block of commands needs, such as a cluster, is a comment on GitHub; here it is shown.
    """

    def change(part: str) -> str:
        nested = re.sub(r"^  (?=- )", "    ", part, flags=re.MULTILINE)
        nested = re.sub(
            r"^<!-- needs (.+) -->$", r'<p class="needs">Needs \1</p>', nested, flags=re.M
        )
        return re.sub(r"`[^`\n]+`", lambda code: code[0].replace(r"\|", "|"), nested)

    return outside_fences(text, change)
