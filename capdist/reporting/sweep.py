"""A sweep: runs of several configs with several seeds each, and the table of their scores.

{"folder": "runs/ablation", "seeds": [1, 2, 3], "split": "test",
 "set": {"stages.0.epochs": 4},
 "rows": {"base": {"config": "configs/base.json"},
          "full GLIED": {"config": "configs/glied.json", "set": {"model.dropout": 0.2}}}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pydantic import Field

from capdist.config.base import ConfigError, Positive, Section, read_json, validate
from capdist.config.run_config import (
    Config,
    RayConfig,
    load_config,
    parse_saved_config,
)
from capdist.metrics.coco_java import SPICE_NAMES
from capdist.reporting.kept_runs import difference, kept_run, read_kept, write_kept
from capdist.reporting.report.files import EvaluationName
from capdist.reporting.results import Results
from capdist.reporting.table import format_markdown, format_table
from capdist.workers.commands import CommandTask

#: The metrics in the table; the table also has the standard deviation of `SPREAD`.
METRICS, SPREAD = ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"), "CIDEr"
GROUNDING = ("F1_all", "F1_loc")
SIZES = ("seeds", "epochs", "minutes", "M parameters", "captions/s", "images/s")


class SweepRow(Section):
    """A row of the table: a config and the values to change in it."""

    config: str
    set: dict[str, Any] = Field({}, description="Values by key, as for train.py --set.")
    paper: dict[str, float] = Field({}, description="The scores in its paper, by metric.")
    against: str | None = Field(
        None, description="Another row, to which the page states the difference in CIDEr."
    )


class SweepList(Section):
    """The sweep file."""

    folder: str = Field(description="Contains a run folder for each row and seed.")
    rows: dict[str, SweepRow] = Field(min_length=1)
    seeds: list[int] = Field([1], min_length=1)
    split: str = Field("test", description="The split to score.")
    beam: Positive = Field(3, description="Hypotheses per image; 1 is greedy decoding.")
    grounding: bool = Field(False, description="Score the grounding of words in regions, too.")
    set: dict[str, Any] = Field(
        {}, description="Values for all rows; those of a row override them."
    )
    cpus: float = Field(1.0, gt=0, description="CPUs of one run, and its number of threads.")
    gpus: float = Field(0.0, ge=0, description="GPUs of one run.")
    ray: RayConfig = RayConfig()


@dataclass(frozen=True)
class SweepRun:
    """One config with one seed."""

    row: str
    source: str
    settings: tuple[str, ...]
    config: Config
    list: SweepList
    kept_in: Path | None = None

    @property
    def folder(self) -> Path:
        return Path(self.config.run)

    @property
    def results(self) -> Results:
        return Results(self.folder, self.list.split)

    @property
    def evaluation(self) -> EvaluationName:
        return EvaluationName(self.list.split, self.list.beam)

    @property
    def done(self) -> bool:
        """Whether this config has been trained and scored."""
        return self.kept is not None or self._in_folder

    @cached_property
    def kept_file(self) -> Path | None:
        return self.kept_in and self.kept_in / f"{self.folder.name}.json.gz"

    @property
    def kept(self) -> dict[str, Any] | None:
        """What is kept of it beside the page, if that is of this config."""
        found = read_kept(self.kept_file) if self.kept_file else None
        return found if found and self._is_of(found["config"], str(self.kept_file)) else None

    def keep(self) -> None:
        """Keep it beside the page, once it is done."""
        if self.kept_file and self.kept is None and self._in_folder:
            write_kept(self.kept_file, kept_run(self.folder, self.evaluation, self.summary))

    @property
    def summary(self) -> dict[str, float | None]:
        """The columns of the table, once it is done."""
        kept = self.kept
        return kept["summary"] if kept else self.results.summary(self.list.beam)

    @property
    def _in_folder(self) -> bool:
        """Whether the run folder has it, trained and scored."""
        scores = self.folder / "scores" / f"{self.evaluation.stem}.json"
        written = self.folder / "config.json"
        found = scores.is_file() and written.is_file()
        return found and self._is_of(read_json(written), str(written))

    def _is_of(self, written: Any, name: str) -> bool:
        """Whether a written config is this run's."""
        trained = parse_saved_config(written, name)
        # The description has no effect on the run, and is edited when its results are known.
        return trained.model_copy(update={"description": self.config.description}) == self.config

    @property
    def task(self) -> CommandTask:
        """Train or resume, then score."""
        options = [word for setting in self.settings for word in ("--set", setting)]
        train = ("-m", "capdist", "train", "--config", self.source, *options, "--resume", "auto")
        score = ["-m", "capdist", "evaluate", "--run", str(self.folder)]
        score += ["--split", self.list.split, "--beam", str(self.list.beam)]
        score += ["--grounding"] if self.list.grounding else []
        return CommandTask(self.folder.name, (train, tuple(score)), self.folder.with_suffix(".log"))


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep file."""

    path: Path
    list: SweepList
    page_file: Path | None = None

    @classmethod
    def load(cls, path: Path, page_file: Path | None = None) -> Sweep:
        """Load a sweep file and validate all its configs, so that no error appears hours later.

        Args:
            path: the sweep file.
            page_file: where its table goes; the runs are kept beside it.

        Raises:
            ConfigError: if the file or a config is invalid.
        """
        sweep = cls(path, validate(SweepList, read_json(path), str(path)), page_file)
        for name, row in sweep.list.rows.items():
            if row.against is not None and row.against not in sweep.list.rows:
                known = ", ".join(sweep.list.rows)
                raise ConfigError(
                    f"{path}: rows.{name}.against: no row {row.against!r}; known rows: {known}"
                )
        folders = [run.folder for run in sweep.runs]
        if shared := {folder.name for folder in folders if folders.count(folder) > 1}:
            raise ConfigError(f"{path}: two rows would share {sorted(shared)}; rename one row")
        return sweep

    @cached_property
    def runs(self) -> tuple[SweepRun, ...]:
        return tuple(self._runs())

    def run(self, number: int) -> SweepRun:
        """The run with a number from 0.

        Raises:
            ConfigError: if there is none.
        """
        if not 0 <= number < len(self.runs):
            raise ConfigError(
                f"{self.path}: its {len(self.runs)} runs are 0 to {len(self.runs) - 1}; there is "
                f"no run {number}"
            )
        return self.runs[number]

    def _runs(self) -> Iterator[SweepRun]:
        for name, row in self.list.rows.items():
            for seed in self.list.seeds:
                folder = f"{self.list.folder}/{re.sub('[^a-z0-9]+', '_', name.lower())}-{seed}"
                values = {**self.list.set, **row.set, "seed": seed, "run": folder}
                settings = tuple(f"{key}={json.dumps(value)}" for key, value in values.items())
                config = load_config(row.config, settings)
                yield SweepRun(name, row.config, settings, config, self.list, self._kept_in)

    @property
    def _kept_in(self) -> Path | None:
        return self.page_file and self.page_file.parent / "runs" / self.path.stem

    @property
    def columns(self) -> tuple[str, ...]:
        grounding = GROUNDING if self.list.grounding else ()
        known = [row for row in self.rows().values() if row.get("SPICE") is not None]
        spice = tuple(SPICE_NAMES.values()) if known else ()
        papers = {metric for row in self.list.rows.values() for metric in row.paper}
        published = [f"paper's {m}" for m in (*METRICS, *GROUNDING) if m in papers]
        return (*METRICS, "±", *spice, *grounding, *published, *SIZES)

    def rows(self) -> dict[str, dict[str, float | None]]:
        """Means over the finished seeds of each row; rows without any are left out."""
        summaries: dict[str, list[dict[str, float | None]]] = {}
        for run in self.runs:
            if run.done:
                summaries.setdefault(run.row, []).append(run.summary)
        return {
            name: {**summarise(runs), **{f"paper's {m}": score for m, score in paper.items()}}
            for name, runs in summaries.items()
            for paper in [self.list.rows[name].paper]
        }

    def table(self) -> str:
        return format_table(self.rows(), self.columns)

    def differences(self) -> dict[str, dict[str, float | None]]:
        """CIDEr of the rows minus that of those that they are compared with."""
        scores: dict[str, list[dict[str, float]]] = {}
        for run in self.runs:
            if (kept := run.kept) and kept["cider"]:
                scores.setdefault(run.row, []).append(kept["cider"])
        return {
            f"{name} − {row.against}": difference(scores[row.against], scores[name])
            for name, row in self.list.rows.items()
            if row.against in scores and name in scores
        }

    def page(self, command: str) -> str:
        """The table as Markdown, with the command that writes it."""
        for run in self.runs:
            run.keep()
        unfinished = sum(not run.done for run in self.runs)
        note = f" {unfinished} of {len(self.runs)} runs are not finished." if unfinished else ""
        text = (
            f"{format_markdown(self.rows(), self.columns)}\n\n"
            f"Means over seeds, on split {self.list.split} with beam {self.list.beam}. "
            f"±: standard deviation of {SPREAD} over seeds. captions/s: the median training step; "
            f"minutes: the training steps of a run; images/s: decoding.{note}\n\n"
        )
        if differences := self.differences():
            text += (
                f"{format_markdown(differences, ('CIDEr', 'from', 'to'))}\n\n"
                "Differences in CIDEr, with their 95 % intervals over resampled images and seeds."
                "\n\n"
            )
        return f"{text}```\n{command}\n```\n"


def summarise(runs: list[dict[str, float | None]]) -> dict[str, float | None]:
    """The columns of a row from those of its seeds; None if a seed has no value."""
    columns = {
        name: None if None in values else mean(value for value in values if value is not None)
        for name in runs[0]
        for values in [[run.get(name) for run in runs]]
    }
    scores = [score for run in runs if (score := run.get(SPREAD)) is not None]
    spread = stdev(scores) if len(scores) > 1 else None
    return {**columns, "±": spread, "seeds": len(runs)}
