"""One fault, once: a run begins, something happens to it, and it goes on or is resumed."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from capdist.inference.run_folder import find_checkpoint, read_progress
from shards.manifest import Manifest
from shards.writer import write
from tests.faults.crew import Crew
from tests.support.resume import same_run, steps_done
from tests.support.runs import SMALL
from tests.support.shards import TinySource

#: After which of a run's 28 steps something may happen.
MOMENTS = (2, 20)
#: Something happens so many seconds behind a step, at most.
BEHIND_S = 0.1


@dataclass(frozen=True)
class Kind:
    """What is run: its ranks and what is set in its config."""

    world: int = 2
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What a trial measured.

    Args:
        noticed_s: seconds until the line; None where there is nothing to notice.
        line: what the user sees.
        lost: steps that are taken again; None where the run goes on by itself.
    """

    noticed_s: float | None
    line: str
    lost: int | None = None


class MissedError(Exception):
    """It was too late for what was to happen; another moment has to be drawn."""


class Workshop:
    """Tiny shards, and an undisturbed run of each kind, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole: dict[Kind, Path] = {}

    @cached_property
    def shards(self) -> Manifest:
        """53 training images, and enough to be evaluated for a while."""
        source = TinySource(sizes=(("train", 53), ("val", 7), ("test", 1000)))
        return write(source, self.folder / "shards", samples_per_shard=8, workers=1)

    def config(self, folder: Path, kind: Kind) -> list[str]:
        """The arguments of a run in ``folder / "run"``."""
        folder.mkdir(parents=True, exist_ok=True)
        stage: dict[str, Any] = {"batch": {"images": 8, "micro": 4}}
        described = {
            "description": "a run that something happens to",
            "run": str(folder / "run"),
            "engine": "torch",
            "data": {"shards": str(self.shards.root), "min_count": 1, "lanes": 8, "workers": 0},
            "model": SMALL,
            "stages": [{"objective": "xe", "epochs": 4, "optimizer": {"lr": 0.01}, **stage}],
            "decoding": {"max_words": 8, "batch": 5},
            "checkpoint": {"every_steps": 5},
            "timeout_s": 60,
        }
        path = folder / "config.json"
        path.write_text(json.dumps(described))
        settings = [part for setting in kind.settings for part in ("--set", setting)]
        return ["--config", str(path), *settings]

    def whole(self, kind: Kind) -> Path:
        """The folder of a run of this kind that nothing happened to."""
        if kind not in self._whole:
            folder = self.folder / f"whole-{len(self._whole)}"
            finish(folder, self.config(folder, kind), kind.world)
            self._whole[kind] = folder / "run"
        return self._whole[kind]


def finish(folder: Path, arguments: Sequence[str], world: int) -> None:
    """Train to the end."""
    with Crew(folder / "finished", "train.py", arguments, world) as crew:
        crew.end(0)


@dataclass
class Trial:
    """A run of a kind, in a folder of its own, and the draws of what happens to it."""

    workshop: Workshop
    kind: Kind
    folder: Path
    draw: random.Random
    settings: tuple[str, ...] = ()
    hosts: Sequence[str] = ()
    more: dict[str, str] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def arguments(self) -> list[str]:
        """Of the run that is disturbed."""
        settings = [part for setting in self.settings for part in ("--set", setting)]
        return [*self.workshop.config(self.folder, self.kind), *settings]

    def start(self) -> Crew:
        """Its ranks, to be entered."""
        world, place = self.kind.world, self.folder / "disturbed"
        return Crew(place, "train.py", self.arguments, world, self.hosts, **self.more)

    def wait(self, crew: Crew, moments: tuple[int, int] = MOMENTS) -> None:
        """Until some moment of the run."""
        step = self.draw.randint(*moments)
        crew.until(lambda: steps_done(self.run) >= step)
        time.sleep(self.draw.uniform(0, BEHIND_S))

    def victim(self) -> int:
        """Some rank."""
        return self.draw.randrange(self.kind.world)

    def lost(self) -> int:
        """Steps behind the last checkpoint."""
        last = find_checkpoint(self.run, "last")
        return steps_done(self.run) - (read_progress(last).step if last else 0)

    def resume(self) -> None:
        """Go on to the end."""
        arguments = [*self.workshop.config(self.folder, self.kind), "--resume", "auto"]
        finish(self.folder, arguments, self.kind.world)

    def compare(self) -> None:
        """Every loss and score, and the best weights, with those of the undisturbed run.

        Raises:
            AssertionError: if anything differs.
        """
        same_run(self.run, self.workshop.whole(self.kind))


def notice(crew: Crew, pattern: str, but: int | None = None) -> Found:
    """Wait until a rank, but the victim, prints a line of the pattern, or all have ended."""

    def lines() -> list[str]:
        return [line for line in crew.lines(but) if re.search(pattern, line)]

    took = crew.until(lambda: lines() or crew.ended)
    found = lines()
    return Found(took, found[0]) if found else Found(None, "")


def stop_and_resume(
    trial: Trial,
    strike: Callable[[Crew], int | None],
    pattern: str,
    status: int = 2,
    mend: Callable[[], object] = lambda: None,
) -> Found:
    """Something happens, the others end, what is broken is mended, and the run goes on.

    Args:
        trial: of which run.
        strike: what happens, and to which rank; the others survive it.
        pattern: of the line that they print.
        status: that they end with.
        mend: what the user does before the run goes on.
    """
    with trial.start() as crew:
        victim = strike(crew)
        found = notice(crew, pattern, victim)
        crew.end(status, victim)
    assert found.line, f"nobody said {pattern!r}: {crew.lines()[-5:]}"
    lost = trial.lost()
    mend()
    trial.resume()
    trial.compare()
    return replace(found, lost=lost)


def go_on(trial: Trial, strike: Callable[[Crew], object], pattern: str) -> Found:
    """Something happens, and the run goes on to its end by itself."""
    with trial.start() as crew:
        strike(crew)
        found = notice(crew, pattern)
        crew.end(0)
    trial.compare()
    return found


def signalled(trial: Trial, number: signal.Signals) -> Callable[[Crew], int]:
    """A signal to some rank at some moment."""

    def strike(crew: Crew) -> int:
        victim = trial.victim()
        trial.wait(crew)
        crew.kill(victim, number)
        return victim

    return strike
