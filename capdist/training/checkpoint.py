"""Checkpoints: written under a temporary name, renamed when complete; named ones are kept.

checkpoints/step-00000125/                     one checkpoint, after an evaluated epoch
checkpoints/step-00000100-inside/              one inside an epoch
  engine.pt or deepspeed/                      weights and optimizer
  rank-0.pt ...                                random number generators of every rank
  progress.json                                where training continues
  model.safetensors config.json vocab.json     the portable export; detector.* in a stage 'mil'
checkpoints/names.json                         which folder is the last, the best, ...: see
                                               capdist/inference/run_folder.py
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
    FINISHED,
    LAST,
    NAMES,
    PROGRESS,
    TrainingProgress,
    find_checkpoint,
    read_names,
    step_folders,
    written_by,
)
from shards.atomic import fsync_folder, write_json

#: The prefix of folders that are being written or removed.
_WRITING = ".writing-"


class CheckpointError(CapdistError):
    """A checkpoint can't be written."""


class Checkpoints:
    """Writes and reads the checkpoints of a run folder."""

    def __init__(self, run: Path, group: ProcessGroup) -> None:
        self.run = run
        self.folder = run / "checkpoints"
        self.group = group
        #: Whether a checkpoint without a name is kept.
        self.keeps: Callable[[Path], bool] = lambda folder: False

    def save(
        self,
        progress: TrainingProgress,
        engine: Engine,
        export: Callable[[Path], None],
        *,
        best: str | None,
    ) -> None:
        """Write a checkpoint as `LAST`, and under the name ``best``; all ranks together.

        If the last one is of this step already, nothing is written.

        Args:
            progress: where training continues.
            engine: whose state is saved.
            export: writes the portable files into a folder; called on the first rank.
            best: the name of the best checkpoint, if this is it; else None.

        Raises:
            CheckpointError: if it can't be written; the last one stays complete, and the last.
        """
        final = self.folder / f"step-{progress.step:08d}{'-inside' if progress.consumed else ''}"
        if final == find_checkpoint(self.run, LAST):
            return
        with self._one_line_errors(final):
            self._write(final, progress, engine, export, best=best)

    def _write(
        self,
        final: Path,
        progress: TrainingProgress,
        engine: Engine,
        export: Callable[[Path], None],
        *,
        best: str | None,
    ) -> None:
        # Not a temporary directory of the system: all ranks must write into the same one.
        temporary = self.folder / f"{_WRITING}{final.name}"
        if self.group.first:
            self._remove_partial()
            temporary.mkdir(parents=True)
        self.group.barrier()
        engine.save(temporary)
        torch.save(_generators(), temporary / f"rank-{self.group.ranks.rank}.pt")
        self.group.barrier()
        if self.group.first:
            export(temporary)
            write_json(temporary / PROGRESS, asdict(progress))
            fsync_folder(temporary)
            # A killed run may have left a folder of this name that no name refers to.
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            # One file for both names: a kill between two writes would leave them inconsistent.
            self._set_names(**dict.fromkeys([LAST, best] if best else [LAST], final.name))
            self.prune()
        self.group.barrier()

    def set_name(self, name: str, folder: str | None) -> None:
        """Name a checkpoint, or drop the name; all ranks together."""
        if self.group.first and self.folder.is_dir():
            self._set_names(**{name: folder})
        self.group.barrier()

    def mark(self, *, finished: bool) -> None:
        """Record whether training is done, for processes that follow it; all ranks together."""
        last = read_names(self.folder).get(LAST)
        self.set_name(FINISHED, last if finished else None)

    def load(self, folder: Path, engine: Engine) -> None:
        """Restore the engine and the generators that `save` wrote.

        A rank that did not exist then keeps its generator.
        """
        engine.load(folder, written_by(folder))
        generators = folder / f"rank-{self.group.ranks.rank}.pt"
        if generators.is_file():
            _restore(torch.load(generators, weights_only=True))

    def _set_names(self, **changed: str | None) -> None:
        names = {**read_names(self.folder), **changed}
        write_json(self.folder / NAMES, {n: folder for n, folder in names.items() if folder})

    def _remove_partial(self) -> None:
        """Remove what a kill, or a full disk, left half written."""
        for partial in self.folder.glob(f"{_WRITING}*"):
            shutil.rmtree(partial, ignore_errors=True)  # another rank may still be writing

    def prune(self) -> None:
        """Remove the checkpoints that have no name and are not kept; on the first rank."""
        kept = read_names(self.folder).values()
        for folder in step_folders(self.run):
            if folder.name not in kept and not self.keeps(folder):
                # Renamed first: for concurrent readers it is complete or absent.
                partial = self.folder / f"{_WRITING}{folder.name}"
                folder.rename(partial)
                shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def _one_line_errors(self, final: Path) -> Iterator[None]:
        """Report a failed write, which every library does in its own way, in one line."""
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and lost_rank(error):
                raise
            free = shutil.disk_usage(self.folder).free
            last = find_checkpoint(self.run, LAST)
            reason = " ".join(str(error).split())
            self._remove_partial()
            raise CheckpointError(
                f"{final}: not written, with {free / 1e6:.0f} MB free on its disk: {reason}; "
                + (f"{last} is complete; " if last else "")
                + "make room, then continue with --resume auto"
            ) from error


def _generators() -> dict[str, torch.Tensor]:
    """States of torch's generators; the order of samples and the readers use none of them."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
