"""The model card of an exported run; `model_card.md.j2` is its text (Mitchell et al. 2019)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from capdist.inference.exported_model import ExportedModel, outdated
from capdist.inference.run_folder import read_versions
from capdist.reporting.report.data import Score, ScoreTable
from capdist.reporting.report.files import RunFiles
from capdist.reporting.report.scores import Evaluated, all_evaluations, score_tables

MODEL_CARD = "MODEL_CARD.md"
_TEMPLATE = Path(__file__).with_name("model_card.md.j2")


def model_card(files: RunFiles, exported: ExportedModel, *, predicts_concepts: bool) -> str:
    """The card in Markdown.

    Scores have 95 % intervals where the references of their split are at hand.

    Args:
        files: of the run.
        exported: its model.
        predicts_concepts: whether the export has what predicts the concepts of new images.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    weights = exported.model.parameters()
    evaluations = [each for each in all_evaluations([files]) if not _left_out(each)]
    return (
        template.render(
            name=files.name,
            config=exported.config,
            module=(inspect.getmodule(type(exported.model)).__doc__ or "").splitlines()[0],
            parameters=f"{sum(weight.numel() for weight in weights) / 1e6:.1f}",
            words=len(exported.vocab),
            needs=sorted(exported.model.needs),
            features=exported.features,
            classes=exported.classes,
            text=exported.text,
            predicts_concepts=predicts_concepts,
            versions=read_versions(files.run),
            tables=[_markdown(table) for table in score_tables(evaluations, [files.name])],
        )
        + "\n"
    )


def _left_out(evaluation: Evaluated) -> bool:
    """Whether its scores are not those of the model; a line says so."""
    files = evaluation.files
    line = outdated(files.run, files.results / "scores" / f"{evaluation.name.stem}.json")
    if line:
        print(f"the card leaves out {line}")
    return line is not None


def _markdown(table: ScoreTable) -> dict[str, Any]:
    """A table of scores with their intervals, and the notes below it."""
    lines = ["| | " + " | ".join(table.columns) + " |", "|---|" + "--:|" * len(table.columns)]
    for row in table.rows:
        name = row.name if row.run is None else f"beam {row.beam}"
        if row.changed:
            name += ", other decoding settings"
        cells = [_cell(row.scores.get(column)) for column in table.columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    intervals = any(score.low is not None for row in table.rows for score in row.scores.values())
    return {
        "split": table.split,
        "lines": "\n".join(lines),
        "notes": table.notes,
        "intervals": intervals,
    }


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    if score.low is None:
        return f"{score.value:.1f}"
    return f"{score.value:.1f} ({score.low:.1f} to {score.high:.1f})"
