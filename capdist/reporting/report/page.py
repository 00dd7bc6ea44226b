"""Collects a report and renders it as one HTML file that opens offline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from capdist.reporting.report.data import Gallery, Report
from capdist.reporting.report.files import RunFiles
from capdist.reporting.report.gallery import make_gallery
from capdist.reporting.report.scores import Evaluated, all_evaluations, score_tables
from capdist.reporting.report.settings import settings
from capdist.reporting.report.training import PART_NAMES, REST, describe_run
from shards.atomic import atomic_write

_STATIC = package_files("capdist.reporting.report") / "static"
_STYLES = ("uplot/uPlot.min.css", "page.css")
_SCRIPTS = ("uplot/uPlot.iife.min.js", "view.js", "gallery.js", "curves.js", "page.js")


def write_report(runs: Sequence[RunFiles], out: Path, split: str | None = None) -> None:
    """Write the report of runs.

    Args:
        runs: the first is the one that others are compared with.
        out: the HTML file.
        split: of the gallery; the last one that was evaluated by default.

    Raises:
        ReportError: if no run was evaluated on the split.
        MetricsLogError: if a metrics log cannot be parsed.
        ShardError: if the shards are damaged, or not where the config says.
    """
    page = render(collect(runs, split))
    with atomic_write(out) as file:
        file.write(page.encode())


def collect(runs: Sequence[RunFiles], split: str | None = None) -> Report:
    """Everything that the page shows; see `write_report`."""
    names = _distinct_names(runs)
    evaluations = all_evaluations(runs)
    gallery, pictures = _gallery(evaluations, runs, split)
    return Report(
        title=", ".join(names),
        runs=[describe_run(run, name) for run, name in zip(runs, names, strict=True)],
        tables=score_tables(evaluations, names),
        settings=settings([run.config for run in runs]),
        gallery=gallery,
        pictures=pictures,
    )


def _distinct_names(runs: Sequence[RunFiles]) -> list[str]:
    """The folders' names, or their paths where two have the same name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.run) for run in runs]


def _gallery(
    evaluations: Sequence[Evaluated], runs: Sequence[RunFiles], split: str | None
) -> tuple[Gallery | None, list[str]]:
    """The captions of each run's widest beam on the split; None if nothing was evaluated."""
    evaluated = [run for run in runs if run.evaluations]
    if split is None and not evaluated:
        return None, []
    chosen = (evaluated or runs)[0].widest(split).split
    widest = [
        each
        for each in evaluations
        if each.split == chosen and each.name == each.files.widest(chosen)
    ]
    return make_gallery(widest, len(runs))


def render(report: Report) -> str:
    """The page; nothing in it is fetched from elsewhere."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((_STATIC / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        report=report,
        style="\n".join(map(_text, _STYLES)),
        script="\n".join(map(_text, _SCRIPTS)),
        part_names=[*dict.fromkeys(PART_NAMES.values()), REST],
        licence=_text("uplot/LICENSE"),
        data=_json(_page_data(report)),
        pictures="\n".join(report.pictures),
    )


def _page_data(report: Report) -> dict[str, Any]:
    """What the scripts need: the template renders the rest."""
    return {
        "runs": [run.name for run in report.runs],
        "curves": [[asdict(curve) for curve in run.training.curves] for run in report.runs],
        "gallery": asdict(report.gallery) if report.gallery else None,
    }


def _json(data: Any) -> str:
    """JSON that cannot end the script element that it is in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", r"\u003c")


def _text(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")
