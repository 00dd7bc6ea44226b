"""Collects a report and renders it as one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from capdist.reporting.report.assets import render_page, static_text
from capdist.reporting.report.data import Gallery, Report
from capdist.reporting.report.files import RunFiles, distinct_names
from capdist.reporting.report.gallery import make_gallery
from capdist.reporting.report.scores import Evaluated, all_evaluations, score_tables
from capdist.reporting.report.settings import settings
from capdist.reporting.report.training import PART_NAMES, REST, describe_run
from shards.atomic import atomic_write

_STYLES = ("uplot/uPlot.min.css", "page.css")
_SCRIPTS = (
    "uplot/uPlot.iife.min.js",
    "theme.js",
    "view.js",
    "gallery.js",
    "curves.js",
    "page.js",
)


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
    names = distinct_names([run.run for run in runs])
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
    return render_page(
        "page.html.j2",
        styles=_STYLES,
        scripts=_SCRIPTS,
        data=_page_data(report),
        pictures=report.pictures,
        report=report,
        part_names=[*dict.fromkeys(PART_NAMES.values()), REST],
        licence=static_text("uplot/LICENSE"),
    )


def _page_data(report: Report) -> dict[str, Any]:
    """What the scripts need: the template renders the rest."""
    return {
        "runs": [run.name for run in report.runs],
        "curves": [[asdict(curve) for curve in run.training.curves] for run in report.runs],
        "gallery": asdict(report.gallery) if report.gallery else None,
    }
