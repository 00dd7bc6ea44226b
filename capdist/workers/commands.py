"""Commands run side by side on Ray, as many at a time as there is room for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capdist.config.run_config import RayConfig
from capdist.workers.ray_child import own_ray
from capdist.workers.reward_pool import PoolError


@dataclass(frozen=True)
class Task:
    """Python commands, one after the other; what they print is added to ``log``."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    log: Path


def run_tasks(
    tasks: Sequence[Task], cpus: float, gpus: float, cluster: RayConfig
) -> Iterator[tuple[Task, int]]:
    """Each task once it is done, with the exit status of its last command; the first not 0 ends it.

    A task whose node dies starts anew elsewhere, so commands must take up what they have left.

    Args:
        tasks: to be run.
        cpus: that Ray reserves for one, and its threads.
        gpus: that Ray reserves for one.
        cluster: where; folders must be the same on all its nodes.

    Raises:
        PoolError: if Ray is not there, or no node is large enough for one.
    """
    if not tasks:
        return
    ray = _connect(cpus, gpus, cluster)
    try:
        work = ray.remote(run_task).options(num_cpus=cpus, num_gpus=gpus, max_retries=-1)
        running = {work.remote(task, cpus, os.getcwd(), sys.path): task for task in tasks}
        while running:
            done, _ = ray.wait(list(running))
            for reference in done:
                yield running.pop(reference), ray.get(reference)
    finally:
        ray.shutdown()


def run_task(task: Task, cpus: float, folder: str, path: list[str]) -> int:
    """The exit status of its last command; the first that is not 0 ends it.

    Args:
        task: to be run, here.
        cpus: its threads.
        folder: the commands' working directory.
        path: where they find modules.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "OMP_NUM_THREADS": str(max(1, int(cpus))),
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
    }
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as log:
        for command in task.commands:
            arguments = [sys.executable, "-u", *command]
            code = subprocess.run(
                arguments, cwd=folder, env=environment, stdout=log, stderr=log, check=False
            ).returncode
            if code:
                return code
    return 0


def _connect(cpus: float, gpus: float, cluster: RayConfig) -> Any:
    """Ray, started or joined.

    Raises:
        PoolError: in one line.
    """
    where = f"ray.address {cluster.address}"
    host, colon, port = cluster.address.rpartition(":")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if cluster.address == "local":
        os.environ |= own_ray()
    try:
        if colon:  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), cluster.timeout_s).close()
        import ray

        ray.init(cluster.address, log_to_driver=False, include_dashboard=False)
    except Exception as error:
        raise PoolError(f"{where}: no Ray: {' '.join(str(error).split())[:300]}") from error
    if not any(
        node["Alive"]
        and node["Resources"].get("CPU", 0) >= cpus
        and node["Resources"].get("GPU", 0) >= gpus
        for node in ray.nodes()
    ):
        ray.shutdown()
        raise PoolError(f"{where}: no node has {cpus:g} CPUs and {gpus:g} GPUs; ask for less")
    return ray
