"""Where a run stands, on disk: written aside, renamed when whole, best and last kept.

checkpoints/step-00000125/   one checkpoint
  engine's own files         weights and optimizer, DeepSpeed's or torch's
  rank-0.pt ...              random number generators of every rank
  cursor.json                where training goes on
  model.safetensors config.json vocab.json   the portable export
checkpoints/last, best       names of folders
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from capdist.training.engine import Engine
from capdist.training.job import Job


@dataclass(frozen=True)
class Cursor:
    """Where training goes on.

    ``step`` counts optimizer steps of the run, ``stage_step`` those of the stage; ``consumed``
    counts samples of the epoch; ``waited`` counts evaluations since the best one.
    """

    stage: int = 0
    step: int = 0
    stage_step: int = 0
    epoch: int = 0
    consumed: int = 0
    skipped: int = 0
    best_cider: float | None = None
    waited: int = 0


def find_checkpoint(run: Path, name: str) -> Path | None:
    """The folder that ``last`` or ``best`` names in a run folder, if there is one."""
    pointer = run / "checkpoints" / name
    return pointer.parent / pointer.read_text().strip() if pointer.is_file() else None


class Checkpoints:
    """Writes and reads the checkpoints of a run folder."""

    def __init__(self, run: Path, job: Job) -> None:
        self.run = run
        self.folder = run / "checkpoints"
        self.job = job

    def save(
        self, cursor: Cursor, engine: Engine, export: Callable[[Path], None], *, best: bool
    ) -> None:
        """Write a checkpoint as ``last``, and as ``best`` where it is; all ranks together.

        Args:
            cursor: where training goes on.
            engine: whose state it is.
            export: writes the portable files into a folder; called on the first rank.
            best: whether no earlier evaluation was better.
        """
        final = self.folder / f"step-{cursor.step:08d}"
        # Not a temporary directory: all ranks must write into the same one.
        aside = self.folder / f".writing-{final.name}"
        if self.job.first:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        self.job.barrier()
        engine.save(aside)
        torch.save(_generators(), aside / f"rank-{self.job.ranks.rank}.pt")
        self.job.barrier()
        if self.job.first:
            export(aside)
            (aside / "cursor.json").write_text(json.dumps(asdict(cursor), indent=1))
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            for name in ["last", "best"] if best else ["last"]:
                self._point(name, final)
            self._prune()
        self.job.barrier()

    def load(self, folder: Path, engine: Engine) -> None:
        """Bring the engine and the generators back to what `save` wrote."""
        engine.load(folder)
        _restore(torch.load(folder / f"rank-{self.job.ranks.rank}.pt", weights_only=True))

    def _point(self, name: str, target: Path) -> None:
        temporary = self.folder / f".{name}"
        temporary.write_text(target.name)
        os.replace(temporary, self.folder / name)

    def _prune(self) -> None:
        kept = {find_checkpoint(self.run, "last"), find_checkpoint(self.run, "best")}
        for folder in self.folder.glob("step-*"):
            if folder not in kept:
                shutil.rmtree(folder)


def read_cursor(folder: Path) -> Cursor:
    """Where training goes on from a checkpoint."""
    return Cursor(**json.loads((folder / "cursor.json").read_text()))


def _generators() -> dict[str, torch.Tensor]:
    """States of torch's generators: the order of samples and the readers draw from none."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
