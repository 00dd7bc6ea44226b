"""The files of a run folder: their names, and how to find its checkpoints.

checkpoints/step-00000125/            one checkpoint, after an evaluated epoch
checkpoints/step-00000100-inside/     one inside an epoch
checkpoints/names.json                which folder is the last, which the best
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

NAMES = "names.json"


@dataclass(frozen=True)
class TrainingProgress:
    """Where training goes on.

    ``step`` counts optimizer steps of the run, ``stage_step`` those of the stage; ``consumed``
    counts samples of the epoch, ``lost`` the damaged ones among them; ``waited`` counts evaluations
    since the best one; ``best_ap`` is a detector's.
    """

    stage: int = 0
    step: int = 0
    stage_step: int = 0
    epoch: int = 0
    consumed: int = 0
    lost: int = 0
    skipped: int = 0
    best_cider: float | None = None
    best_ap: float | None = None
    waited: int = 0


def find_checkpoint(run: Path, name: str) -> Path | None:
    """The folder that has a name in a run, if any.

    ``last``, ``best``, ``detector`` (the best), ``finished`` (the last, once training is done).
    """
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
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def read_progress(folder: Path) -> TrainingProgress:
    """Where training goes on from a checkpoint."""
    return TrainingProgress(**json.loads((folder / "cursor.json").read_text()))
