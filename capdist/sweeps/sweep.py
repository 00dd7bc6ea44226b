"""A sweep: runs of several configs with several seeds each, and the table of their scores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from statistics import mean, stdev

from capdist.config.base import ConfigError
from capdist.config.run_config import load_config
from capdist.data.mixture import load_shards
from capdist.inference.grounding import check_grounding
from capdist.metrics.coco import ScoreError
from capdist.metrics.coco_java import SPICE_NAMES
from capdist.reporting.table import format_markdown, format_table
from capdist.sweeps.kept_runs import difference
from capdist.sweeps.sweep_list import SweepList, load_list
from capdist.sweeps.sweep_runs import SweepEnsemble, SweepRun
from shards.schema import ShardError

#: The metrics in the table; the table also has the standard deviation of `SPREAD`.
METRICS, SPREAD = ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"), "CIDEr"
GROUNDING = ("F1_all", "F1_loc")
SIZES = ("seeds", "epochs", "minutes", "M parameters", "captions/s", "images/s")


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
        sweep = cls(path, load_list(path), page_file)
        folders = [run.folder for run in sweep.runs]
        if shared := {folder.name for folder in folders if folders.count(folder) > 1}:
            raise ConfigError(f"{path}: two rows would share {sorted(shared)}; rename one row")
        sweep._check_compared()
        sweep._check_split()
        return sweep

    def _check_split(self) -> None:
        """Refuse, before runs train, shards without the split or without its grounding.

        Absent shards are a run's mistake.
        """
        data = {str(run.shards): run.config.data for run in self.runs if isinstance(run, SweepRun)}
        for each in data.values():
            try:
                manifest = load_shards(each)
            except ShardError:
                continue
            try:
                manifest.split(self.list.split)
            except ShardError as error:
                raise ConfigError(f"{self.path}: split: {error}") from None
            if self.list.grounding:
                try:
                    check_grounding(manifest, self.list.split)
                except ShardError as error:
                    raise ConfigError(f"{self.path}: grounding: {error}") from None

    def _check_compared(self) -> None:
        """Refuse rows that are compared with rows of other shards."""
        shards = {run.row: run.shards for run in self.runs}
        for name, row in self.list.rows.items():
            if row.against and shards[name] != shards[row.against]:
                raise ConfigError(
                    f"{self.path}: rows.{name}.against: row {row.against!r} has data.shards "
                    f"{shards[row.against]}, and this one {shards[name]}; compare rows of the same "
                    "images"
                )

    def check_folders(self, runs: Sequence[SweepRun | SweepEnsemble]) -> None:
        """Refuse to continue what was trained otherwise than the list says now.

        Raises:
            ConfigError: naming the folder.
        """
        if conflicts := [run.conflict for run in runs if not run.done and run.conflict]:
            others = f" (and {len(conflicts) - 1} other folders)" if conflicts[1:] else ""
            raise ConfigError(f"{self.path}: {conflicts[0]}{others}")

    @cached_property
    def runs(self) -> tuple[SweepRun | SweepEnsemble, ...]:
        """Row by row, seed by seed."""
        trained: dict[str, tuple[SweepRun, ...]] = {}
        for name, row in self.list.rows.items():
            trained[name] = tuple(self._trained(name, trained[row.init] if row.init else ()))
        return tuple(run for name in self.list.rows for run in self._of_row(name, trained))

    def run(self, number: int) -> SweepRun | SweepEnsemble:
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

    def _trained(self, name: str, inits: Sequence[SweepRun]) -> Iterator[SweepRun]:
        """The runs of a row with a config; none of an ensemble."""
        row = self.list.rows[name]
        if row.config is None:
            return
        for seed, init in zip_longest(self.list.seeds_of(name), inits):
            folder = f"{self._folder(name)}-{seed}"
            values = {**self.list.set, **row.set, "seed": seed, "run": folder}
            if init:
                values["stages.0.init.run"] = str(init.folder)
            settings = tuple(f"{key}={json.dumps(value)}" for key, value in values.items())
            config = load_config(row.config, settings)
            place = (name, Path(config.run), self.list, self._kept_in)
            yield SweepRun(*place, row.config, settings, config, init)

    def _of_row(
        self, name: str, trained: dict[str, tuple[SweepRun, ...]]
    ) -> tuple[SweepRun | SweepEnsemble, ...]:
        ensemble = self.list.rows[name].ensemble
        if ensemble is None:
            return trained[name]
        if len(ensemble) == 1:
            return (self._ensemble(name, self._folder(name), trained[ensemble[0]]),)
        by_seed = zip(*(trained[member] for member in ensemble), strict=True)
        return tuple(
            self._ensemble(name, f"{self._folder(name)}-{members[0].config.seed}", members)
            for members in by_seed
        )

    def _ensemble(self, name: str, folder: str, members: tuple[SweepRun, ...]) -> SweepEnsemble:
        return SweepEnsemble(name, Path(folder), self.list, self._kept_in, members)

    def _folder(self, name: str) -> str:
        return f"{self.list.folder}/{re.sub('[^a-z0-9]+', '_', name.lower())}"

    @property
    def _kept_in(self) -> Path | None:
        return self.page_file and self.page_file.parent / "runs" / Path(self.list.folder).name

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
        found = {}
        for name, row in self.list.rows.items():
            if row.against in scores and name in scores:
                try:
                    between = difference(scores[row.against], scores[name])
                except ScoreError as error:
                    raise ConfigError(
                        f"{self.path}: rows {name!r} and {row.against!r}: {error}; remove what is "
                        "kept of one of them, and its run folders"
                    ) from None
                found[f"{name} − {row.against}"] = between
        return found

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
