"""Commands run in parallel on Ray, as many at a time as there are CPUs and GPUs for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from capdist.config.run_config import RayConfig
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

    A task whose node is lost starts again on another, so its commands must be able to resume.

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
    try:
        remote = ray.remote(run_task).options(num_cpus=cpus, num_gpus=gpus, max_retries=-1)
        running = {remote.remote(task, cpus, os.getcwd(), sys.path): task for task in tasks}
        while running:
            done, _ = ray.wait(list(running))
            for reference in done:
                yield running.pop(reference), ray.get(reference)
    finally:
        ray.shutdown()


def run_task(task: CommandTask, cpus: float, folder: str, path: list[str]) -> int:
    """Run the commands of a task here; the first exit status other than 0, which ends it, or 0.

    Args:
        task: what to run.
        cpus: number of threads.
        folder: the commands' working directory.
        path: their ``sys.path``.
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
            status = subprocess.run(
                arguments, cwd=folder, env=environment, stdout=log, stderr=log, check=False
            ).returncode
            if status:
                return status
    return 0
