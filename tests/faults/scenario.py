"""One fault injection: a run starts, a fault is injected, and the run recovers or is resumed."""

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
from tests.faults.process_launcher import ProcessLauncher
from tests.support.resume import same_run, steps_done
from tests.support.runs import SMALL
from tests.support.shards import TinySource

#: The steps, of a run's 28, after which a fault is injected.
STEPS = (2, 20)
#: Up to so many seconds after the step.
MAX_DELAY_S = 0.1


@dataclass(frozen=True)
class RunSetup:
    """The number of ranks, and overrides of the config."""

    world: int = 2
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a fault injection measured.

    Args:
        detected_s: seconds from the fault to the message; None if there is no message.
        message: what the user sees.
        lost_steps: steps that are trained again; None if the run recovers by itself.
    """

    detected_s: float | None
    message: str
    lost_steps: int | None = None


class TooLateError(Exception):
    """The moment of the fault was missed; another one has to be drawn."""


class ReferenceRuns:
    """Tiny shards, and an uninterrupted run of each setup, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: dict[RunSetup, Path] = {}

    @cached_property
    def shards(self) -> Manifest:
        """53 training images, and enough test images for a long evaluation."""
        source = TinySource(sizes=(("train", 53), ("val", 7), ("test", 1000)))
        return write(source, self.folder / "shards", samples_per_shard=8, workers=1)

    def arguments(self, folder: Path, setup: RunSetup) -> list[str]:
        """The command-line arguments of a run in ``folder / "run"``."""
        folder.mkdir(parents=True, exist_ok=True)
        stage: dict[str, Any] = {"batch": {"images": 8, "micro": 4}}
        config = {
            "description": "a run with an injected fault",
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
        path.write_text(json.dumps(config))
        return ["--config", str(path), *overrides(setup.settings)]

    def run(self, setup: RunSetup) -> Path:
        """The folder of an uninterrupted run."""
        if setup not in self._runs:
            folder = self.folder / f"reference-{len(self._runs)}"
            train_to_the_end(folder, self.arguments(folder, setup), setup.world)
            self._runs[setup] = folder / "run"
        return self._runs[setup]


def overrides(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def train_to_the_end(folder: Path, arguments: Sequence[str], world: int) -> None:
    with ProcessLauncher(folder / "finished", "train.py", arguments, world) as launcher:
        launcher.wait_for_exit(0)


@dataclass
class Scenario:
    """A run in a folder of its own, and the random numbers that choose the fault's moment."""

    references: ReferenceRuns
    setup: RunSetup
    folder: Path
    random: random.Random
    settings: tuple[str, ...] = ()
    namespaces: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def launch(self) -> ProcessLauncher:
        """The ranks of the run that gets the fault."""
        arguments = self.references.arguments(self.folder, self.setup)
        return ProcessLauncher(
            self.folder / "faulty",
            "train.py",
            [*arguments, *overrides(self.settings)],
            self.setup.world,
            self.namespaces,
            **self.env,
        )

    def wait_for_random_step(
        self, launcher: ProcessLauncher, steps: tuple[int, int] = STEPS
    ) -> None:
        step = self.random.randint(*steps)
        launcher.wait_until(lambda: steps_done(self.run) >= step)
        time.sleep(self.random.uniform(0, MAX_DELAY_S))

    def random_rank(self) -> int:
        return self.random.randrange(self.setup.world)

    def lost_steps(self) -> int:
        """The number of steps after the last checkpoint."""
        last = find_checkpoint(self.run, "last")
        return steps_done(self.run) - (read_progress(last).step if last else 0)

    def resume(self) -> None:
        arguments = self.references.arguments(self.folder, self.setup)
        train_to_the_end(self.folder, [*arguments, "--resume", "auto"], self.setup.world)

    def compare(self) -> None:
        """Compare every loss, every score and the best weights with the reference run.

        Raises:
            AssertionError: if anything differs.
        """
        same_run(self.run, self.references.run(self.setup))


def wait_for_message(
    launcher: ProcessLauncher, pattern: str, excluded: int | None = None
) -> Outcome:
    """Wait until a rank, but the excluded one, prints a matching line, or all have exited."""

    def matching() -> list[str]:
        return [line for line in launcher.lines(excluded) if re.search(pattern, line)]

    elapsed = launcher.wait_until(lambda: matching() or launcher.finished)
    lines = matching()
    return Outcome(elapsed, lines[0]) if lines else Outcome(None, "")


def inject_and_resume(
    scenario: Scenario,
    inject: Callable[[ProcessLauncher], int | None],
    pattern: str,
    status: int = 2,
    repair: Callable[[], object] = lambda: None,
) -> Outcome:
    """Inject a fault that ends the run, repair the damage and resume.

    Args:
        scenario: the run.
        inject: the fault; returns the rank that it kills or stops, if any.
        pattern: of the message that another rank prints.
        status: exit status of the other ranks.
        repair: what the user does before the run is resumed.
    """
    with scenario.launch() as launcher:
        excluded = inject(launcher)
        outcome = wait_for_message(launcher, pattern, excluded)
        launcher.wait_for_exit(status, excluded)
    assert outcome.message, f"no line matches {pattern!r}: {launcher.lines()[-5:]}"
    lost_steps = scenario.lost_steps()
    repair()
    scenario.resume()
    scenario.compare()
    return replace(outcome, lost_steps=lost_steps)


def inject_and_finish(
    scenario: Scenario, inject: Callable[[ProcessLauncher], object], pattern: str
) -> Outcome:
    """Inject a fault from which the run recovers by itself."""
    with scenario.launch() as launcher:
        inject(launcher)
        outcome = wait_for_message(launcher, pattern)
        launcher.wait_for_exit(0)
    scenario.compare()
    return outcome


def signal_random_rank(
    scenario: Scenario, number: signal.Signals
) -> Callable[[ProcessLauncher], int]:
    def inject(launcher: ProcessLauncher) -> int:
        rank = scenario.random_rank()
        scenario.wait_for_random_step(launcher)
        launcher.kill(rank, number)
        return rank

    return inject
