"""What a page about a model takes from elsewhere: its configs, its scores, its equations and code.

A page says where, by comments that GitHub does not show:

    <!-- configs: glied -->                  the configs of models by their names
    <!-- scores: glied | base | GLIED -->    rows of a table in docs/results/papers.md
    <!-- module: glied.py -->                the module's docstring and code
"""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAPERS = "docs/results/papers.md"
_MARK = re.compile(r"^<!-- (configs|scores|module): (.+) -->$", re.MULTILINE)
#: Columns of the papers' tables that are shown, in this order.
_COLUMNS: tuple[str, ...] = ("", "BLEU-4", "CIDEr", "±", "F1_all")
_COLUMNS += ("paper's BLEU-4", "paper's CIDEr", "paper's F1_all", "seeds")


def fill(markdown: str) -> str:
    """Put configs, scores and modules in the place of the comments that ask for them."""
    makers = {"configs": _configs, "scores": _scores, "module": _module}
    return _MARK.sub(lambda mark: makers[mark[1]](mark[2]), markdown)


def _configs(names: str) -> str:
    rows = ["| config | what it trains |", "|---|---|"]
    for path, config in _all_configs():
        if config["model"]["name"] in names.split(", "):
            rows.append(f"| [{path}](../../configs/{path}) | {config['description']} |")
    return "\n".join(rows)


@cache
def _all_configs() -> tuple[tuple[str, dict[str, dict[str, str]]], ...]:
    folder = ROOT / "configs"
    paths = [path for path in sorted(folder.rglob("*.json")) if path.parent.name != "sweeps"]
    read = [(str(path.relative_to(folder)), json.loads(path.read_text())) for path in paths]
    return tuple((path, config) for path, config in read if "model" in config)


def _scores(wanted: str) -> str:
    """Rows of the table of a sweep, as far as they have been measured."""
    sweep, *names = wanted.split(" | ")
    listed = json.loads((ROOT / f"configs/sweeps/{sweep}.json").read_text())["rows"]
    if unknown := set(names) - set(listed):
        raise ValueError(f"scores: {sweep} has no rows {unknown}, expected some of {list(listed)}")
    head, rows = papers_table(sweep)
    shown = [head.index(column) for column in _COLUMNS if column in head]
    kept = [row for row in rows if row[0] in names]
    if not kept:
        return f"Not measured yet: `capdist sweep configs/sweeps/{sweep}.json`."
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *kept]
    return "\n".join("| " + " | ".join(line[i] for i in shown) + " |" for line in lines)


def papers_table(sweep: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a sweep's table in docs/results/papers.md; both empty if it has none."""
    text = (ROOT / PAPERS).read_text(encoding="utf-8")
    part = text.partition(f"<!-- results:{sweep} -->")[2].partition("<!-- /results -->")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return (cells[0], cells[2:]) if cells else ([], [])


def _module(name: str) -> str:
    code = (ROOT / "capdist/models" / name).read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(code)) or ""
    # A star after a symbol is the papers' notation, not emphasis.
    prose = re.sub(r"(?<=\b[A-Z])\*", r"\\*", said)
    return f"{prose}\n\n`````python\n{code}`````"
