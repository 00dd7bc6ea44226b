"""What a sweep runs: one config with one seed, or the ensemble of several of these runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from capdist.config.base import read_json
from capdist.config.run_config import Config, parse_saved_config
from capdist.reporting.kept_runs import kept_ensemble, kept_run, read_kept, write_kept
from capdist.reporting.report.files import CONSTANT, EvaluationName
from capdist.reporting.results import Results
from capdist.reporting.sweep_list import SweepList
from capdist.workers.commands import CommandTask


@dataclass(frozen=True)
class ScoredRun(ABC):
    """A folder with scores that count for a row, and what is kept of it beside the page."""

    row: str
    folder: Path
    list: SweepList
    kept_in: Path | None

    @property
    @abstractmethod
    def in_folder(self) -> bool:
        """Whether the folder has the scores of what the list describes."""

    @property
    @abstractmethod
    def summary_in_folder(self) -> dict[str, float | None]:
        """The columns of the table, from the folder."""

    @property
    @abstractmethod
    def task(self) -> CommandTask:
        """The commands that fill the folder."""

    @abstractmethod
    def is_described_by(self, kept: dict[str, Any]) -> bool:
        """Whether what is kept is of the configs that the list describes."""

    @abstractmethod
    def what_to_keep(self) -> dict[str, Any]:
        """What is kept of it, from the folder."""

    @property
    def missing(self) -> Sequence[str]:
        """Folders of runs without which it can't be run."""
        return ()

    @property
    def left_out(self) -> str:
        """The line that says so."""
        return (
            f"{self.folder.name} is left out: no finished run in {', '.join(self.missing)}; it "
            "needs the models of these run folders"
        )

    @property
    def evaluation(self) -> EvaluationName:
        return EvaluationName(self.list.split, self.list.beam)

    @property
    def done(self) -> bool:
        return self.kept is not None or self.in_folder

    @cached_property
    def kept_file(self) -> Path | None:
        return self.kept_in and self.kept_in / f"{self.folder.name}.json.gz"

    @property
    def kept(self) -> dict[str, Any] | None:
        """What is kept of it beside the page, if the list still describes that."""
        found = read_kept(self.kept_file) if self.kept_file else None
        if found is None or found.get("evaluation") != self.evaluation.stem:
            return None
        return found if self.is_described_by(found) else None

    def keep(self) -> None:
        """Keep it beside the page, once it is done."""
        if self.kept_file and self.kept is None and self.in_folder:
            write_kept(self.kept_file, self.what_to_keep())

    @property
    def summary(self) -> dict[str, float | None]:
        """The columns of the table, once it is done."""
        kept = self.kept
        return kept["summary"] if kept else self.summary_in_folder

    @property
    def scores_file(self) -> Path:
        return self.folder / "scores" / f"{self.evaluation.stem}.json"

    def score_command(self, *options: str) -> tuple[str, ...]:
        """The evaluation of runs, with the list's settings."""
        grounding = ("--grounding",) if self.list.grounding else ()
        split = ("--split", self.list.split, "--beam", str(self.list.beam))
        return ("-m", "capdist", "evaluate", *options, *split, *grounding)

    def new_task(self, *commands: tuple[str, ...]) -> CommandTask:
        return CommandTask(self.folder.name, commands, self.folder.with_suffix(".log"))


@dataclass(frozen=True)
class SweepRun(ScoredRun):
    """One config with one seed, and the run that it begins with."""

    source: str
    settings: tuple[str, ...]
    config: Config
    init: SweepRun | None = None

    @property
    def missing(self) -> Sequence[str]:
        """The folder of the run that it begins with, unless that is finished."""
        return [] if self.init is None or self.init.in_folder else [str(self.init.folder)]

    @property
    def in_folder(self) -> bool:
        """Whether the run folder has it, trained and scored."""
        if self.missing:
            return False
        written = self.folder / "config.json"
        found = self.scores_file.is_file() and written.is_file()
        return found and self.is_of(read_json(written), str(written))

    def is_of(self, written: Any, name: str) -> bool:
        """Whether a written config is this run's; ``name`` is its file, for messages."""
        trained = parse_saved_config(written, name)
        # The description has no effect on the run, and is edited when its results are known.
        return trained.model_copy(update={"description": self.config.description}) == self.config

    def is_described_by(self, kept: dict[str, Any]) -> bool:
        file = str(self.kept_file)
        if self.init and not ("init" in kept and self.init.is_of(kept["init"], file)):
            return False
        return self.is_of(kept["config"], file)

    @property
    def summary_in_folder(self) -> dict[str, float | None]:
        return Results(self.folder, self.list.split).summary(self.list.beam)

    def what_to_keep(self) -> dict[str, Any]:
        kept = kept_run(self.folder, self.evaluation, self.summary)
        return kept | {"init": read_json(self.init.folder / "config.json")} if self.init else kept

    @property
    def task(self) -> CommandTask:
        """Train or resume, then score."""
        options = [word for setting in self.settings for word in ("--set", setting)]
        train = ("-m", "capdist", "train", "--config", self.source, *options, "--resume", "auto")
        return self.new_task(train, self.score_command("--run", str(self.folder)))


@dataclass(frozen=True)
class SweepEnsemble(ScoredRun):
    """Runs that decode together."""

    members: tuple[SweepRun, ...]

    @property
    def missing(self) -> Sequence[str]:
        """The folders of members that are not there, or not finished; they have the models."""
        return [str(member.folder) for member in self.members if not member.in_folder]

    @property
    def in_folder(self) -> bool:
        """Whether it is scored, by its members as they are now."""
        if self.missing or not self.scores_file.is_file():
            return False
        return self._are_members(self._scored.get("members", []), str(self.scores_file))

    @property
    def _scored(self) -> dict[str, Any]:
        rows = read_json(self.scores_file)
        return next(row for name, row in rows.items() if name != CONSTANT)

    def _are_members(self, written: Sequence[Any], name: str) -> bool:
        """Whether written configs are those of the members."""
        return len(written) == len(self.members) and all(
            member.is_of(config, name) for member, config in zip(self.members, written, strict=True)
        )

    def is_described_by(self, kept: dict[str, Any]) -> bool:
        return self._are_members(kept.get("members", []), str(self.kept_file))

    @property
    def summary_in_folder(self) -> dict[str, float | None]:
        """Scores, the members' parameters together, and the speed of decoding."""
        scored = self._scored
        sizes = [member.summary["M parameters"] or 0 for member in self.members]
        sized = {"M parameters": sum(sizes), "images/s": scored["images_per_s"]}
        return {**scored["values"], **sized}

    def what_to_keep(self) -> dict[str, Any]:
        first = self.members[0].folder
        members = self._scored["members"]
        return kept_ensemble(first, self.folder, members, self.evaluation, self.summary)

    @property
    def task(self) -> CommandTask:
        """Decode with all members, and score."""
        runs = [str(member.folder) for member in self.members]
        return self.new_task(self.score_command("--run", *runs, "--out", str(self.folder)))
