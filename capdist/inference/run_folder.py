"""The files of a run folder: their names, and how to find its checkpoints.

config.json                           what was run
checkpoints/step-00000125/            one checkpoint, after an evaluated epoch
checkpoints/step-00000100-inside/     one inside an epoch
checkpoints/initial/                  the model that it began with, if it is another run's
checkpoints/names.json                which folder is the last, which the best ...
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import NotRequired, TypedDict

from capdist.config.base import read_json, read_json_as
from capdist.config.run_config import Config, parse_saved_config

NAMES, PROGRESS = "names.json", "progress.json"
#: The folder of the model that a run took over from another one.
INITIAL = "initial"
#: Names of checkpoints: where a run continues; its best captioning model and its best concept
#: detectors; whose weights the current stage began with; the last one, once training is done.
LAST, BEST, BEST_DETECTOR, STAGE_START, FINISHED = (
    "last",
    "best",
    "detector",
    "stage_start",
    "finished",
)


@dataclass(frozen=True)
class TrainingProgress:
    """Where training continues.

    ``step`` counts optimizer steps of the run, ``stage_step`` those of the stage; ``consumed``
    counts samples of the epoch, ``lost`` the damaged ones among them; ``skipped`` counts steps that
    the loss scaler skipped; ``best`` has the best score of each validation metric; ``waited``
    counts evaluations since the best one.
    """

    stage: int = 0
    step: int = 0
    stage_step: int = 0
    epoch: int = 0
    consumed: int = 0
    lost: int = 0
    skipped: int = 0
    best: dict[str, float] = field(default_factory=dict)
    waited: int = 0

    def next_epoch(self) -> TrainingProgress:
        """Where training continues after the last sample of an epoch."""
        return replace(self, epoch=self.epoch + 1, consumed=0, lost=0)


class _ProgressJson(TypedDict):
    stage: int
    step: int
    stage_step: int
    epoch: int
    consumed: int
    lost: NotRequired[int]
    skipped: NotRequired[int]
    best: NotRequired[dict[str, float]]
    waited: NotRequired[int]


@with_config(ConfigDict(extra="allow"))
class SavedModelJson(TypedDict):
    """What ``config.json`` of a checkpoint or of an exported model says of it."""

    run: dict[str, Any]
    features: dict[str, Any]
    further_features: NotRequired[list[dict[str, Any]]]
    classes: NotRequired[int]
    classes_kept: NotRequired[int]
    predicates: NotRequired[int]
    concepts: NotRequired[str | None]


def read_saved_model(folder: Path) -> SavedModelJson:
    """What the ``config.json`` in the folder of a checkpoint says."""
    return read_json_as(SavedModelJson, folder / "config.json")


def saved_config(folder: Path) -> Config:
    """The config that a checkpoint was trained with."""
    return parse_saved_config(read_saved_model(folder)["run"], str(folder / "config.json"))


def read_run_config(run: Path) -> Config:
    """The config that a run trains or was trained with."""
    path = run / "config.json"
    return parse_saved_config(read_json(path), str(path))


def read_versions(run: Path) -> dict[str, Any]:
    """What a run was made with; empty if it has not recorded it."""
    path = run / "versions.json"
    return read_json_as(dict[str, Any], path) if path.is_file() else {}


def find_checkpoint(run: Path, name: str) -> Path | None:
    """The folder of a run's checkpoint by its name, such as `LAST`; None if there is none."""
    folder = run / "checkpoints"
    found = read_names(folder).get(name)
    return folder / found if found else None


def step_folders(run: Path) -> list[Path]:
    """All checkpoints of a run, by step."""
    return sorted((run / "checkpoints").glob("step-*"))


def written_by(folder: Path) -> int:
    """How many ranks wrote a checkpoint."""
    return len(list(folder.glob("rank-*.pt")))


def read_names(folder: Path) -> dict[str, str]:
    path = folder / NAMES
    return read_json_as(dict[str, str], path) if path.is_file() else {}


def read_progress(folder: Path) -> TrainingProgress:
    """Where training continues from a checkpoint."""
    if not (folder / PROGRESS).is_file():
        return _read_cursor(folder / "cursor.json")
    return TrainingProgress(**read_json_as(_ProgressJson, folder / PROGRESS))


def _read_cursor(path: Path) -> TrainingProgress:
    """What older versions wrote instead of `PROGRESS`."""
    fields = read_json(path)
    scores = {"CIDEr": fields.pop("best_cider", None), "AP": fields.pop("best_ap", None)}
    best = {metric: score for metric, score in scores.items() if score is not None}
    return TrainingProgress(**fields, best=best)
