"""Tables of scores as plain text and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: The scores of a row by column; None and missing columns are shown as a dash.
Row = Mapping[str, float | None]


def format_table(rows: Mapping[str, Row], columns: Sequence[str]) -> str:
    """An aligned plain-text table with one line per row; scores have one decimal."""
    cells = _cells(rows, columns)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    head, *body = ["  ".join(_aligned(line, widths)).rstrip() for line in cells]
    return "\n".join([head, rule, *body])


def format_markdown(rows: Mapping[str, Row], columns: Sequence[str]) -> str:
    """The same table in Markdown."""
    cells = [[cell.replace("|", r"\|") for cell in line] for line in _cells(rows, columns)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    head, *body = [_aligned(line, widths) for line in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *body])


def format_score(score: float | None) -> str:
    """A score with one decimal, an integer as it is, or a dash for None."""
    if score is None:
        return "–"
    return str(score) if isinstance(score, int) else f"{score:.1f}"


def _cells(rows: Mapping[str, Row], columns: Sequence[str]) -> list[list[str]]:
    body = [
        [name, *(format_score(row.get(column)) for column in columns)] for name, row in rows.items()
    ]
    return [["", *columns], *body]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names left-aligned, scores right-aligned."""
    (name, *scores), (first, *rest) = line, widths
    return [name.ljust(first), *(s.rjust(width) for s, width in zip(scores, rest, strict=True))]
