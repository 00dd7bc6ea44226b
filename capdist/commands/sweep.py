"""``capdist sweep``: train and score a list of configs, each with several seeds, on Ray.

Runs that are done are not run again; a run that was interrupted continues from its last checkpoint.
A run that begins with another one, or an ensemble, waits for the runs that it needs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from capdist.arguments import count
from capdist.signals import STOP, STOPPED
from shards.outputs import check_output_folder

if TYPE_CHECKING:
    from capdist.sweeps.sweep import Sweep
    from capdist.sweeps.sweep_list import SweepList
    from capdist.sweeps.sweep_runs import ScoredRun
    from capdist.workers.commands import CommandTask

HELP = "train and score a list of configs, and tabulate their scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("list", type=Path, help="JSON file; configs/sweeps has examples")
    parser.add_argument(
        "--page",
        type=Path,
        help="Markdown page whose section <!-- results:NAME --> gets the table; NAME is the "
        "list's file name without .json. Finished runs are kept beside the page, in runs and the "
        "name of the list's folder, and are not run again",
    )
    parser.add_argument(
        "--only",
        type=count,
        metavar="K",
        help="run only run K of the list (from 0; row by row, seed by seed), without Ray",
    )


def run(args: argparse.Namespace) -> int:
    """0 when all runs are done, 1 if one failed, 75 if a signal stopped one."""
    from capdist.sweeps.sweep import Sweep

    sweep = Sweep.load(args.list, args.page)
    only = None if args.only is None else sweep.run(args.only)
    sweep.check_folders([only] if only else sweep.runs)
    write_page(sweep)  # a page without the section is refused before anything runs
    check_output_folder(Path(sweep.list.folder))
    if only:
        status = run_alone(only)
    else:
        status = run_all(sweep)
        print(sweep.table())
    write_page(sweep)
    return status


def write_page(sweep: Sweep) -> None:
    """Write the table of the runs that are done into the page, if there is one."""
    from capdist.reporting.results import fill

    if page := sweep.page_file:
        command = shlex.join(["capdist", "sweep", str(sweep.path), "--page", str(page)])
        fill(page, sweep.path.stem, sweep.page(command))
        print(page)


def run_all(sweep: Sweep) -> int:
    """Run all that is not done on Ray.

    Returns:
        0; 1 if a run failed or lacks one that it needs; `STOPPED` if a signal stopped one.
    """
    from shards.progress import Progress

    left = [run for run in sweep.runs if not run.done]
    title, done = f"sweep {sweep.path.stem}", len(sweep.runs) - len(left)
    statuses = {0}
    with Progress(len(sweep.runs), initial=done, title=title, unit="run") as progress:
        for status, problem in run_each(left, sweep.list):
            statuses.add(status)
            if status != STOPPED:
                progress.advance()
            if problem:
                progress.say(problem)
        if STOPPED in statuses:
            progress.say("stopped; the same command continues the runs that are not finished")
    return max(statuses)


def run_each(left: Sequence[ScoredRun], settings: SweepList) -> Iterator[tuple[int, str]]:
    """For each run that has ended, 0, 1 or `STOPPED`, and what went wrong.

    Each run waits for those that it needs. After a stop, no other begins.
    """
    from capdist.workers.commands import run_tasks

    while ready := [run for run in left if not run.missing]:
        left = [run for run in left if run.missing]
        conflicts = [run.conflict for run in ready]
        yield from ((1, conflict) for conflict in conflicts if conflict)
        tasks = [run.task for run, conflict in zip(ready, conflicts, strict=True) if not conflict]
        for task, status in run_tasks(tasks, settings.cpus, settings.gpus, settings.ray):
            yield outcome(task, status)
            if status == STOPPED:
                left = []
    yield from ((1, run.left_out) for run in left)


def outcome(task: CommandTask, status: int) -> tuple[int, str]:
    if status in {0, STOPPED}:
        return status, ""
    return 1, f"{task.name} failed with status {status}: see {task.log}"


def run_alone(run: ScoredRun) -> int:
    """Run one run without Ray, for a scheduler that starts each by itself; its exit status."""
    from capdist.workers.commands import run_task

    if run.done:
        print(f"{run.folder} is done")
        return 0
    if run.missing:
        print(f"error: {run.left_out}", file=sys.stderr)
        return 1
    print(f"{run.folder}: its output is in {run.task.log}", flush=True)
    for number in STOP:  # training, which gets SIGTERM then, saves and exits
        signal.signal(number, lambda *_: sys.exit(STOPPED))
    status, problem = outcome(run.task, run_task(run.task, run.list.cpus, os.getcwd(), sys.path))
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return status
