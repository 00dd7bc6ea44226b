"""A connection to Ray for tasks that this process hands out itself."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from typing import Any

from capdist.config.run_config import RayConfig
from capdist.workers.base import PoolError
from capdist.workers.driver_process import one_line
from capdist.workers.private_ray import environment


def connect(cpus: float, gpus: float, cluster: RayConfig, where: str, sizes: str) -> Any:
    """The ``ray`` module, connected to the cluster or to a private Ray.

    Args:
        cpus: of a task.
        gpus: of a task.
        cluster: its address, or "local".
        where: names the option with the address, in messages.
        sizes: names the options with ``cpus`` and ``gpus``.

    Raises:
        PoolError: if Ray is not available, or no node is large enough.
    """
    host, colon, port = cluster.address.rpartition(":")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if cluster.address == "local":
        os.environ |= environment(secrets.token_hex(32))
    try:
        if colon:  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), cluster.timeout_s).close()
        import ray

        ray.init(cluster.address, log_to_driver=False, include_dashboard=False)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's handler aborts with a trace of C++
    except Exception as error:
        raise PoolError(
            f"{where}: cannot connect to Ray ({one_line(error)}); start it there, correct the "
            "address, or install Ray: pip install -e '.[train]'"
        ) from error
    if not any(
        node["Alive"]
        and node["Resources"].get("CPU", 0) >= cpus
        and node["Resources"].get("GPU", 0) >= gpus
        for node in ray.nodes()
    ):
        ray.shutdown()
        raise PoolError(f"{where}: no node has {cpus:g} CPUs and {gpus:g} GPUs; lower {sizes}")
    return ray
