"""What a report reads from a run folder, whatever of it exists already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import NotRequired, TypedDict

from capdist.config.base import ConfigError, read_json_as, validate
from capdist.config.data import DataConfig
from capdist.data.dataset import References, references
from capdist.data.mixture import load_shards
from capdist.errors import CapdistError
from capdist.reporting.metrics_log import METRICS_LOG, read_records
from capdist.reporting.report.looks import Look, read_looks
from shards.image_ids import image_number
from shards.json_types import ImageId
from shards.manifest import Manifest

CONFIG, SCORES, REPORT = "config.json", "scores.json", "report.html"

#: The row of the baseline in ``scores.json``.
CONSTANT = "constant caption"


#: A split, and perhaps the digest of decoding settings.
_CHANGED = re.compile(r"(.*?)(?:-([0-9a-f]{6}))?")
#: What an evaluation of other shards than the run's, or of its last checkpoint, has in its name.
_OF_OTHERS = re.compile(r"-(shards-[0-9a-f]{6}|checkpoint-last)-beam")


@with_config(ConfigDict(extra="allow"))
class RunJson(TypedDict):
    """What reports and pages need of a run's ``config.json``."""

    run: str
    description: NotRequired[str]
    data: dict[str, Any]
    model: dict[str, Any]


@with_config(ConfigDict(extra="allow"))
class VersionsJson(TypedDict):
    """What pages need of a run's ``versions.json``; None: not installed, or no git clone."""

    python: str
    torch: str
    deepspeed: str | None
    webdataset: str | None
    git: str | None
    command: list[str]


class CaptionJson(TypedDict):
    """An entry of a file of captions."""

    image_id: ImageId
    caption: str


class ReportError(CapdistError):
    """A run folder, or a file in it, cannot be read."""


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a file of scores, by name.

    Raises:
        ConfigError: if it is damaged or has none.
    """
    if rows := read_json_as(dict[str, dict[str, Any]], path):
        return rows
    raise ConfigError(f"{path}: no scores; evaluate again")


def read_captions(path: Path) -> dict[ImageId, str]:
    """The captions of a file that an evaluation wrote, by image id."""
    return {entry["image_id"]: entry["caption"] for entry in read_json_as(list[CaptionJson], path)}


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or their paths where two have the same name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


@dataclass(frozen=True, order=True)
class EvaluationName:
    """What an evaluation's files are called.

    ``changed`` is the digest of decoding settings that are not the config's, "" if all are.
    """

    split: str
    beam: int
    changed: str = ""

    @classmethod
    def parse(cls, stem: str) -> EvaluationName:
        """The name from the stem of a file of scores."""
        rest, _, beam = stem.rpartition("-beam")
        split, changed = _CHANGED.fullmatch(rest).groups("")  # type: ignore[union-attr]
        return cls(split, int(beam), changed)

    @property
    def stem(self) -> str:
        changed = f"-{self.changed}" if self.changed else ""
        return f"{self.split}{changed}-beam{self.beam}"


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    ``run`` has config and metrics log, ``results`` captions and scores; they are the same folder
    unless an evaluation wrote elsewhere. ``known`` are the shards if they are open already, and
    ``shards`` is their folder instead of the config's.
    """

    run: Path
    results: Path
    shards: str | None = None
    known: Manifest | None = None

    @classmethod
    def open(cls, run: Path, shards: str | None = None) -> RunFiles:
        """The files of a run folder.

        Raises:
            ReportError: if it is not a run folder.
        """
        if not run.is_dir():
            raise ReportError(f"{run}: no such folder; give a run folder")
        if not (run / CONFIG).is_file():
            raise ReportError(f"{run}: no {CONFIG}; expected the folder of a run")
        return cls(run, run, shards)

    @property
    def name(self) -> str:
        return self.run.resolve().name

    @cached_property
    def config(self) -> RunJson:
        return read_json_as(RunJson, self.run / CONFIG)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Of the metrics log; none before the first step."""
        log = self.run / METRICS_LOG
        return read_records(log) if log.is_file() else []

    @cached_property
    def manifest(self) -> Manifest:
        """Of the shards.

        Raises:
            ShardError: if they are not there.
        """
        if self.known is not None:
            return self.known
        data = self.config["data"] | ({"shards": self.shards} if self.shards else {})
        features = tuple(self.config["model"].get("features", ()))
        return load_shards(validate(DataConfig, data, str(self.run / CONFIG), "data"), features)

    @cached_property
    def _references(self) -> dict[str, References]:
        return {}

    def references(self, split: str) -> References:
        """Of a split, read once."""
        if split not in self._references:
            self._references[split] = references(self.manifest, split)
        return self._references[split]

    @property
    def evaluations(self) -> list[EvaluationName]:
        """Those of the run's best checkpoint on its own shards, the latest last."""
        files = sorted(
            self.results.glob("scores/*-beam*.json"), key=lambda file: file.stat().st_mtime_ns
        )
        names = [file.stem for file in files]
        return [EvaluationName.parse(name) for name in names if not _OF_OTHERS.search(name)]

    def widest(self, split: str | None = None) -> EvaluationName:
        """The widest beam of a split, by default of the last evaluated one.

        Other decoding settings than the config's count only where there is nothing else.

        Raises:
            ReportError: if it was not evaluated.
        """
        known = self.evaluations
        chosen = split or (known[-1].split if known else "test")
        names = [name for name in known if name.split == chosen]
        if not names:
            raise ReportError(
                f"{self.run}: no captions of split {chosen!r}; first run: capdist evaluate "
                f"--run {self.run} --split {chosen}"
            )
        return max(names, key=lambda name: (not name.changed, name.beam))

    def scores(self, name: EvaluationName) -> dict[str, Any]:
        """Rows by name."""
        return read_scores(self.results / "scores" / f"{name.stem}.json")

    def captions(self, name: EvaluationName) -> dict[int, str]:
        """Captions by image number; none if they are gone."""
        path = self.results / "captions" / f"{name.stem}.json"
        found = read_captions(path) if path.is_file() else {}
        return {image_number(image): caption for image, caption in found.items()}

    def looks(self, name: EvaluationName) -> dict[int, Look]:
        """Alternatives and attention by image number; none of evaluations by older versions."""
        path = looks_path(self.results, name.stem)
        return {look.image: look for look in read_looks(path)} if path.is_file() else {}


def looks_path(results: Path, name: str) -> Path:
    """Where an evaluation writes what its captions attended to."""
    return results / "captions" / f"{name}.attention.json.gz"
