"""Where a run stands, on disk: written aside, renamed when whole, best and last kept.

checkpoints/step-00000125/   one checkpoint, behind an evaluated epoch
checkpoints/step-00000100-inside/   one inside an epoch
  engine's own files         weights and optimizer, DeepSpeed's or torch's
  rank-0.pt ...              random number generators of every rank
  cursor.json                where training goes on
  model.safetensors config.json vocab.json   the portable export; detector.* in the stage mil
checkpoints/names.json       which folder is the last, which the best (best, detector), and which
                             the end of the run (finished)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from capdist.distributed.process_group import ProcessGroup, lost_rank
from capdist.engines.base import Engine
from capdist.errors import CapdistError
from capdist.inference.run_folder import (
    NAMES,
    TrainingProgress,
    find_checkpoint,
    read_names,
    step_folders,
    written_by,
)
from shards.atomic import fsync_folder, write_json


class CheckpointError(CapdistError):
    """A checkpoint that can't be written; the message says what is left and what to do."""


class Checkpoints:
    """Writes and reads the checkpoints of a run folder."""

    def __init__(self, run: Path, job: ProcessGroup) -> None:
        self.run = run
        self.folder = run / "checkpoints"
        self.job = job
        #: Whether a checkpoint without a name is kept.
        self.keeps: Callable[[Path], bool] = lambda folder: False

    def save(
        self,
        cursor: TrainingProgress,
        engine: Engine,
        export: Callable[[Path], None],
        *,
        best: str | None,
    ) -> None:
        """Write a checkpoint as ``last``, and under the name ``best``; all ranks together.

        One that is the last already is left as it is.

        Args:
            cursor: where training goes on.
            engine: whose state it is.
            export: writes the portable files into a folder; called on the first rank.
            best: the name of the best, where no earlier evaluation was better.

        Raises:
            CheckpointError: if it can't be written; the last one is whole, and still the last.
        """
        final = self.folder / f"step-{cursor.step:08d}{'-inside' if cursor.consumed else ''}"
        if final == find_checkpoint(self.run, "last"):
            return
        with self._explained(final):
            self._write(final, cursor, engine, export, best=best)

    def _write(
        self,
        final: Path,
        cursor: TrainingProgress,
        engine: Engine,
        export: Callable[[Path], None],
        *,
        best: str | None,
    ) -> None:
        # Not a temporary directory: all ranks must write into the same one.
        aside = self.folder / f".writing-{final.name}"
        if self.job.first:
            self._remove_torn()
            aside.mkdir(parents=True)
        self.job.barrier()
        engine.save(aside)
        torch.save(_generators(), aside / f"rank-{self.job.ranks.rank}.pt")
        self.job.barrier()
        if self.job.first:
            export(aside)
            write_json(aside / "cursor.json", asdict(cursor))
            fsync_folder(aside)
            # What a killed run left under this name, that nothing refers to.
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            # One file for both names: a kill between two would part them.
            named = dict.fromkeys(["last", best] if best else ["last"], final.name)
            write_json(self.folder / NAMES, {**read_names(self.folder), **named})
            self._prune()
        self.job.barrier()

    def name(self, name: str, folder: str) -> None:
        """Give a name to a checkpoint, and remove what is not kept; all ranks together."""
        if self.job.first:
            write_json(self.folder / NAMES, {**read_names(self.folder), name: folder})
            self._prune()
        self.job.barrier()

    def mark(self, *, finished: bool) -> None:
        """Say in `NAMES` whether training is done, for those who watch; all ranks together."""
        names = read_names(self.folder)
        if self.job.first and "last" in names:
            names.pop("finished", None)
            if finished:
                names["finished"] = names["last"]
            write_json(self.folder / NAMES, names)
        self.job.barrier()

    def load(self, folder: Path, engine: Engine) -> None:
        """Bring the engine and the generators back to what `save` wrote.

        A rank that was not there then keeps the generator that it has.
        """
        engine.load(folder, written_by(folder))
        generators = folder / f"rank-{self.job.ranks.rank}.pt"
        if generators.is_file():
            _restore(torch.load(generators, weights_only=True))

    def _remove_torn(self) -> None:
        """What a kill, or a full disk, left half written."""
        for torn in self.folder.glob(".writing-*"):
            shutil.rmtree(torn, ignore_errors=True)  # another rank may still write

    def _prune(self) -> None:
        kept = read_names(self.folder).values()
        for folder in step_folders(self.run):
            if folder.name not in kept and not self.keeps(folder):
                # Renamed first: for those who read checkpoints meanwhile, it is there or gone.
                torn = self.folder / f".writing-{folder.name}"
                folder.rename(torn)
                shutil.rmtree(torn, ignore_errors=True)

    @contextmanager
    def _explained(self, final: Path) -> Iterator[None]:
        """Turn a failure to write, which every library reports in its own way, into one line."""
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and lost_rank(error):
                raise
            free = shutil.disk_usage(self.folder).free
            last = find_checkpoint(self.run, "last")
            reason = " ".join(str(error).split())
            self._remove_torn()
            raise CheckpointError(
                f"{final}: not written, with {free / 1e6:.0f} MB free on its disk: {reason}; "
                + (f"{last} is whole: " if last else "")
                + "make room, then go on by --resume auto"
            ) from error


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
