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
from capdist.inference.exported_model import weights_digest
from capdist.inference.run_folder import BEST, FINISHED, LAST, find_checkpoint, saved_config
from capdist.reporting.report.files import CONSTANT, EvaluationName, read_scores
from capdist.reporting.report.settings import settings
from capdist.reporting.results import Results
from capdist.sweeps.kept_runs import kept_ensemble, kept_run, read_kept, write_kept
from capdist.sweeps.sweep_list import SweepList
from capdist.training.initial import read_origin
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
    def shards(self) -> Any:
        """`data.shards` of its config."""

    @property
    @abstractmethod
    def weights(self) -> Sequence[str] | None:
        """Digests of the models that the list describes; None if one is not there."""

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
    def conflict(self) -> str | None:
        """Why its folder can't be filled, as one line; None if it can."""
        return None

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
    def in_folder(self) -> bool:
        """Whether the folder has the scores of the models that the list describes."""
        if not self.scores_file.is_file() or self.weights is None:
            return False
        scored = self.scored
        grounded = not self.list.grounding or "grounding_classes" in scored
        return grounded and scored.get("weights") == self.weights

    @property
    def scored(self) -> dict[str, Any]:
        """What the evaluation wrote."""
        rows = read_scores(self.scores_file)
        return next(row for name, row in rows.items() if name != CONSTANT)

    @property
    def done(self) -> bool:
        return self.kept is not None or self.in_folder

    @cached_property
    def kept_file(self) -> Path | None:
        return self.kept_in and self.kept_in / f"{self.folder.name}-{self.evaluation.stem}.json.gz"

    @property
    def kept(self) -> dict[str, Any] | None:
        """What is kept of it beside the page, if the list still describes that."""
        found = read_kept(self.kept_file) if self.kept_file else None
        if found is None or (self.list.grounding and "F1_all" not in found["summary"]):
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
    def shards(self) -> Any:
        return self.config.data.shards

    @property
    def weights(self) -> Sequence[str] | None:
        """The digest of its best weights, once it is trained."""
        finished, best = (find_checkpoint(self.folder, name) for name in (FINISHED, BEST))
        if finished is None or best is None or self.missing or self.conflict:
            return None
        return [weights_digest(best)]

    @property
    def conflict(self) -> str | None:
        last, remedy = find_checkpoint(self.folder, LAST), "; remove the folder to train it anew"
        if last and not self.is_trained_as(trained := saved_config(last)):
            both = self.comparable(trained), self.config
            dumps = [config.model_dump(mode="json") for config in both]
            changed = next(setting for setting in settings(dumps) if setting.differs)
            was, now = changed.values
            return (
                f"{self.folder}: was trained with another config than row {self.row!r} has, "
                f"{changed.key} {was} instead of {now}{remedy}"
            )
        origin = read_origin(self.config)
        if self.init and origin and [origin["weights"]] != self.init.weights:
            return f"{self.folder}: began with other weights than {self.init.folder} has{remedy}"
        return None

    def is_trained_as(self, trained: Config) -> bool:
        """Whether a config is this run's."""
        return self.comparable(trained) == self.config

    def comparable(self, trained: Config) -> Config:
        """A config with what has no effect on the weights as this run's has it."""
        ignored = ("schema_", "description", "run", "tracking", "ray")
        return trained.model_copy(update={name: getattr(self.config, name) for name in ignored})

    @property
    def chain(self) -> list[SweepRun]:
        """It, the run that it begins with, and so on."""
        return [self, *(self.init.chain if self.init else ())]

    def is_described_by(self, kept: dict[str, Any]) -> bool:
        return self.are_of_chain([kept["config"], *kept.get("init", ())])

    def are_of_chain(self, written: Sequence[Any]) -> bool:
        """Whether written configs are those of its chain."""
        file = str(self.kept_file)
        return len(written) == len(self.chain) and all(
            run.is_trained_as(parse_saved_config(config, file))
            for run, config in zip(self.chain, written, strict=True)
        )

    @property
    def configs(self) -> list[Any]:
        """The configs of its chain, as their folders have them."""
        return [read_json(run.folder / "config.json") for run in self.chain]

    @property
    def summary_in_folder(self) -> dict[str, float | None]:
        return Results(self.folder, self.list.split).summary(self.list.beam)

    def what_to_keep(self) -> dict[str, Any]:
        kept = kept_run(self.folder, self.evaluation, self.summary)
        return kept | {"init": self.configs[1:]} if self.init else kept

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
    def shards(self) -> Any:
        return self.members[0].shards

    @property
    def weights(self) -> Sequence[str] | None:
        """Digests of the members' best weights."""
        if self.missing:
            return None
        return [digest for member in self.members for digest in member.weights or ()]

    def is_described_by(self, kept: dict[str, Any]) -> bool:
        members = kept.get("members", [])
        return len(members) == len(self.members) and all(
            member.are_of_chain(written)
            for member, written in zip(self.members, members, strict=True)
        )

    @property
    def summary_in_folder(self) -> dict[str, float | None]:
        """Scores, the members' parameters together, and the speed of decoding."""
        scored = self.scored
        sizes = [member.summary["M parameters"] or 0 for member in self.members]
        sized = {"M parameters": sum(sizes), "images/s": scored["images_per_s"]}
        return {**scored["values"], **sized}

    def what_to_keep(self) -> dict[str, Any]:
        first = self.members[0].folder
        members = [member.configs for member in self.members]
        return kept_ensemble(first, self.folder, members, self.evaluation, self.summary)

    @property
    def task(self) -> CommandTask:
        """Decode with all members, and score."""
        runs = [str(member.folder) for member in self.members]
        return self.new_task(self.score_command("--run", *runs, "--out", str(self.folder)))
