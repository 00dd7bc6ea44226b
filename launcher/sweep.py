"""Train and score a list of configs: ``python launcher/sweep.py configs/sweeps/glied.json``.

Runs that are done are not done again; others go on from where they were.
"""

import argparse
import os
import sys
from pathlib import Path

from capdist.config.base import ConfigError
from capdist.metrics.coco import ScoreError
from capdist.reporting.progress import Progress
from capdist.reporting.results import ResultsError, fill
from capdist.reporting.sweep import Sweep, SweepRun
from capdist.signals import STOPPED, StopSignal
from capdist.workers.base import PoolError
from capdist.workers.commands import run_task, run_tasks


def main() -> int:
    """Run what is left and print the table; 1 if a run failed, 2 on bad input.

    With --only: 75 if a signal stopped it.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path, help="JSON file; configs/sweeps has examples")
    parser.add_argument(
        "--page", type=Path, help="whose place <!-- results:LIST'S NAME --> gets the table"
    )
    parser.add_argument(
        "--only", type=int, metavar="K", help="that run alone, from 0, row by row; here, no table"
    )
    args = parser.parse_args()
    try:
        sweep = Sweep.load(args.list)
        if args.only is not None:
            return run_here(sweep.run(args.only))
        write(sweep, args.page)  # a page without the place is refused now, not in the end
        failed = run(sweep)
        print(sweep.table())
        write(sweep, args.page)
    except (ConfigError, ResultsError, ScoreError, PoolError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


def write(sweep: Sweep, page: Path | None) -> None:
    """Put what is done so far into the page, if there is one."""
    if page:
        fill(page, sweep.path.stem, sweep.page(" ".join(["python", *sys.argv])))
        print(page)


def run(sweep: Sweep) -> bool:
    """Whatever is left of a sweep; whether any run failed."""
    left = [run.task for run in sweep.runs if not run.done]
    title, done = f"sweep {sweep.path.stem}", len(sweep.runs) - len(left)
    failed = False
    with Progress(len(sweep.runs), initial=done, title=title, unit="run") as progress:
        for task, status in run_tasks(left, sweep.list.cpus, sweep.list.gpus, sweep.list.ray):
            progress.advance(1)
            if status:
                failed = True
                progress.say(f"{task.name} failed with {status}; it says why in {task.log}")
    return failed


def run_here(run: SweepRun) -> int:
    """One run without Ray, for a scheduler that starts each by itself; its exit status."""
    if run.done:
        print(f"{run.folder} is done")
        return 0
    print(f"{run.folder}: what it prints is in {run.task.log}", flush=True)
    # The commands get the scheduler's signal as well. Training follows it; scoring ends by it.
    stop = StopSignal()
    status = run_task(run.task, run.list.cpus, os.getcwd(), sys.path)
    if status and stop.asked:
        return STOPPED
    if status:
        print(f"error: {run.task.name} failed with {status}; see {run.task.log}", file=sys.stderr)
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
