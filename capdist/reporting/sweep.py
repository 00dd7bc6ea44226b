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
from capdist.reporting.results import Results
from capdist.reporting.table import format_markdown, format_table
from capdist.workers.commands import CommandTask

#: The metrics in the table; the table also has the standard deviation of `SPREAD`.
METRICS, SPREAD = ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"), "CIDEr"
GROUNDING = ("F1_all", "F1_loc")
SIZES = ("seeds", "M parameters", "captions/s", "images/s")


class SweepRow(Section):
    """A row of the table: a config and the values to change in it."""

    config: str
    set: dict[str, Any] = Field({}, description="Values by key, as for train.py --set.")
    paper: dict[str, float] = Field({}, description="The scores in its paper, by metric.")


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

    @property
    def folder(self) -> Path:
        return Path(self.config.run)

    @property
    def results(self) -> Results:
        return Results(self.folder, self.list.split)

    @property
    def done(self) -> bool:
        """Whether this config has been trained and scored."""
        scores = self.folder / "scores" / f"{self.list.split}-beam{self.list.beam}.json"
        written = self.folder / "config.json"
        if not (scores.is_file() and written.is_file()):
            return False
        trained = parse_saved_config(read_json(written), str(written))
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

    @classmethod
    def load(cls, path: Path) -> Sweep:
        """Load a sweep file and validate all its configs, so that no error appears hours later.

        Raises:
            ConfigError: if the file or a config is invalid.
        """
        sweep = cls(path, validate(SweepList, read_json(path), str(path)))
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
                yield SweepRun(name, row.config, settings, config, self.list)

    @property
    def columns(self) -> tuple[str, ...]:
        grounding = GROUNDING if self.list.grounding else ()
        papers = {metric for row in self.list.rows.values() for metric in row.paper}
        published = [f"paper's {m}" for m in (*METRICS, *GROUNDING) if m in papers]
        return (*METRICS, "±", *grounding, *published, *SIZES)

    def rows(self) -> dict[str, dict[str, float | None]]:
        """Means over the finished seeds of each row; rows without any are left out."""
        summaries: dict[str, list[dict[str, float | None]]] = {}
        for run in self.runs:
            if run.done:
                summaries.setdefault(run.row, []).append(run.results.summary(self.list.beam))
        return {
            name: {**summarise(runs), **{f"paper's {m}": score for m, score in paper.items()}}
            for name, runs in summaries.items()
            for paper in [self.list.rows[name].paper]
        }

    def table(self) -> str:
        return format_table(self.rows(), self.columns)

    def page(self, command: str) -> str:
        """The table as Markdown, with the command that writes it."""
        unfinished = sum(not run.done for run in self.runs)
        note = f" {unfinished} of {len(self.runs)} runs are not finished." if unfinished else ""
        return (
            f"{format_markdown(self.rows(), self.columns)}\n\n"
            f"Means over seeds, on split {self.list.split} with beam {self.list.beam}. "
            f"±: standard deviation of {SPREAD} over seeds. captions/s: the median training step; "
            f"images/s: decoding.{note}\n\n```\n{command}\n```\n"
        )


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
