"""Runs of a list of configs, each with several seeds, and the table of their scores.

{"folder": "runs/ablation", "seeds": [1, 2, 3], "split": "test",
 "set": {"stages.0.epochs": 4},
 "rows": {"base": {"config": "configs/base.json"},
          "full GLIED": {"config": "configs/glied.json", "set": {"model.dropout": 0.2}}}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pydantic import Field

from capdist.config.base import ConfigError, Positive, Section, read_json, validate
from capdist.config.run_config import Config, RayConfig, load_config
from capdist.reporting.results import Results
from capdist.reporting.table import format_markdown, format_table
from capdist.workers.commands import CommandTask

#: Of all metrics, those in the table; of CIDEr the spread too.
METRICS, SPREAD = ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"), "CIDEr"
GROUNDING = ("F1_all", "F1_loc")
SIZES = ("seeds", "M parameters", "captions/s", "images/s")


class SweepRow(Section):
    """A row of the table: a config and what it changes in it."""

    config: str
    set: dict[str, Any] = Field({}, description="Values by place, as train.py's --set.")
    paper: dict[str, float] = Field({}, description="What its paper prints, by metric.")


class SweepList(Section):
    """What is run, and where."""

    folder: str = Field(description="Has a run's folder for each row and seed.")
    rows: dict[str, SweepRow] = Field(min_length=1)
    seeds: list[int] = Field([1], min_length=1)
    split: str = Field("test", description="That is scored.")
    beam: Positive = Field(3, description="Hypotheses an image; 1 is greedy.")
    grounding: bool = Field(False, description="Score where the models look, too.")
    set: dict[str, Any] = Field({}, description="For all rows; a row's own come later.")
    cpus: float = Field(1.0, gt=0, description="Of one run, and its threads.")
    gpus: float = Field(0.0, ge=0, description="Of one run.")
    ray: RayConfig = RayConfig()


@dataclass(frozen=True)
class SweepRun:
    """One config with one seed."""

    row: str
    source: str
    settings: tuple[str, ...]
    config: Config
    list: SweepList

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.config.run)

    @property
    def results(self) -> Results:
        """What the folder says."""
        return Results(self.folder, self.list.split)

    @property
    def done(self) -> bool:
        """Whether exactly this was trained and scored."""
        scores = self.folder / "scores" / f"{self.list.split}-beam{self.list.beam}.json"
        written = self.folder / "config.json"
        if not (scores.is_file() and written.is_file()):
            return False
        trained = validate(Config, read_json(written), str(written))
        # The description says what came of it, at times, and changes nothing.
        return trained.model_copy(update={"description": self.config.description}) == self.config

    @property
    def task(self) -> CommandTask:
        """Train, or go on, and score."""
        options = [part for setting in self.settings for part in ("--set", setting)]
        train = ("launcher/train.py", "--config", self.source, *options, "--resume", "auto")
        score = ["launcher/evaluate.py", "--run", str(self.folder), "--split", self.list.split]
        score += ["--beam", str(self.list.beam)]
        score += ["--grounding"] if self.list.grounding else []
        return CommandTask(self.folder.name, (train, tuple(score)), self.folder.with_suffix(".log"))


@dataclass(frozen=True)
class Sweep:
    """All runs of a list."""

    path: Path
    list: SweepList

    @classmethod
    def load(cls, path: Path) -> Sweep:
        """Read a list and every config in it, so that nothing wrong is found hours later.

        Raises:
            ConfigError: naming the list and the row, or the config.
        """
        sweep = cls(path, validate(SweepList, read_json(path), str(path)))
        folders = [run.folder for run in sweep.runs]
        if doubled := {folder.name for folder in folders if folders.count(folder) > 1}:
            raise ConfigError(f"{path}: two rows would share {sorted(doubled)}; rename one")
        return sweep

    @cached_property
    def runs(self) -> tuple[SweepRun, ...]:
        """Row by row, seed by seed."""
        return tuple(self._runs())

    def run(self, number: int) -> SweepRun:
        """By its number, from 0.

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
                settings = tuple(f"{place}={json.dumps(v)}" for place, v in values.items())
                config = load_config(row.config, settings)
                yield SweepRun(name, row.config, settings, config, self.list)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table."""
        grounding = GROUNDING if self.list.grounding else ()
        printed = [m for m in (*METRICS, *GROUNDING) if any(m in r.paper for r in self._listed)]
        return (*METRICS, "±", *grounding, *(f"paper's {m}" for m in printed), *SIZES)

    @property
    def _listed(self) -> Iterable[SweepRow]:
        return self.list.rows.values()

    def rows(self) -> dict[str, dict[str, float | None]]:
        """Means over the seeds that are done, by row; rows without any are left out."""
        found: dict[str, list[dict[str, float | None]]] = {}
        for run in self.runs:
            if run.done:
                found.setdefault(run.row, []).append(run.results.summary(self.list.beam))
        return {
            name: {**summarise(runs), **{f"paper's {m}": score for m, score in paper.items()}}
            for name, runs in found.items()
            for paper in [self.list.rows[name].paper]
        }

    def table(self) -> str:
        """For a terminal."""
        return format_table(self.rows(), self.columns)

    def page(self, command: str) -> str:
        """As Markdown, and how to make it again."""
        left = sum(not run.done for run in self.runs)
        missing = f" {left} of {len(self.runs)} runs are not done yet." if left else ""
        return (
            f"{format_markdown(self.rows(), self.columns)}\n\n"
            f"Means over seeds, on {self.list.split} with beam {self.list.beam}. "
            f"±: standard deviation of {SPREAD} between seeds. captions/s: a training step's "
            f"median; images/s: decoding.{missing}\n\n```\n{command}\n```\n"
        )


def summarise(runs: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Columns of one row from those of its seeds; a column that one of them lacks is None."""
    columns = {
        name: None if None in values else mean(value for value in values if value is not None)
        for name in runs[0]
        for values in [[run.get(name) for run in runs]]
    }
    scores = [run[SPREAD] for run in runs]
    spread = stdev(score for score in scores if score is not None) if len(runs) > 1 else None
    return {**columns, "±": spread, "seeds": len(runs)}
