"""Commands run in parallel on Ray, as many at a time as there are CPUs and GPUs for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from capdist.config.run_config import RayConfig
from capdist.signals import STOPPED, StopSignal
from capdist.workers.ray_tasks import connect


@dataclass(frozen=True)
class CommandTask:
    """Python commands to run one after the other; their output is appended to ``log``."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    log: Path


def run_tasks(
    tasks: Sequence[CommandTask], cpus: float, gpus: float, cluster: RayConfig
) -> Iterator[tuple[CommandTask, int]]:
    """Each task when it has ended, with the exit status of `run_task`.

    A task whose node is lost starts again on another, so its commands must be able to resume. After
    a stop signal, and when the caller does not go on, commands get SIGTERM and are waited for, so
    that they can save their state; the status of their tasks is `STOPPED`.

    Args:
        tasks: what to run.
        cpus: CPUs that Ray reserves for a task, and its number of threads.
        gpus: GPUs that Ray reserves for a task.
        cluster: which Ray runs them; all its nodes must have the same folders.

    Raises:
        PoolError: if Ray is not available, or no node is large enough for one task.
    """
    if not tasks:
        return
    where = f"ray.address {cluster.address}"
    ray = connect(cpus, gpus, cluster, where, "cpus or gpus of the list")
    stop = StopSignal()
    remote = ray.remote(_run_in_worker).options(num_cpus=cpus, num_gpus=gpus, max_retries=-1)
    running = {remote.remote(task, cpus, os.getcwd(), sys.path): task for task in tasks}
    try:
        while running and not stop.asked:
            done, _ = ray.wait(list(running), timeout=1)
            for reference in done:
                yield running.pop(reference), ray.get(reference)
    finally:
        for reference in running:
            ray.cancel(reference)
        if running:
            ray.wait(list(running), num_returns=len(running))
        ray.shutdown()
    yield from ((task, STOPPED) for task in running.values())


def _run_in_worker(task: CommandTask, cpus: float, folder: str, path: list[str]) -> int:
    """`run_task`, which Ray can cancel also where SIGINT is ignored, as in a script's background.

    Ray interrupts a task as Ctrl-C does.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return run_task(task, cpus, folder, path)


def run_task(task: CommandTask, cpus: float, folder: str, path: list[str]) -> int:
    """Run the commands of a task here; the first exit status other than 0, which ends it, or 0.

    Args:
        task: what to run.
        cpus: number of threads.
        folder: the commands' working directory.
        path: their ``sys.path``.

    An exception, such as that of Ctrl-C or of a task that Ray cancels, passes SIGTERM on to the
    command and waits for its end.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "OMP_NUM_THREADS": str(max(1, int(cpus))),
        "PYTHONPATH": os.pathsep.join(entry for entry in path if entry),
    }
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as log:
        for command in task.commands:
            arguments = [sys.executable, "-u", *command]
            process = subprocess.Popen(
                arguments, cwd=folder, env=environment, stdout=log, stderr=log
            )
            if status := _wait(process):
                return status
    return 0


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        while process.poll() is None:
            time.sleep(0.1)  # not process.wait(), which Ray cannot interrupt
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return process.returncode
