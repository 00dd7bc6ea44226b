"""The main program of the Ray driver, a child process started by `driver_process`.

``python -m capdist.workers.ray_driver FD`` reads a `DriverTask`, its payload and calls from the
pipe. It answers with pairs (kind, value): "connected", then what ``request.serve`` sends, "log" at
any time. The last one after an error is "failed", or "lost" if the caller can do without Ray.
"""

from __future__ import annotations

import atexit
import math
import os
import shutil
import signal
import sys
from io import BytesIO
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

from capdist.workers.base import PoolError
from capdist.workers.driver_process import DriverTask, WorkerCrashError, one_line
from capdist.workers.private_ray import (
    PrivateRay,
    RayNeeds,
    join_options,
    start_options,
    wait_for_joined,
)


def main() -> None:
    """Serve one parent until it sends None or exits; Ray stops with this process."""
    pipe = Connection(int(sys.argv[1]))
    os.set_inheritable(pipe.fileno(), False)  # Ray's processes would keep it open
    signal.signal(signal.SIGINT, signal.default_int_handler)
    calls: SimpleQueue[Any] = SimpleQueue()
    task: DriverTask = pipe.recv()
    payload = BytesIO(pipe.recv_bytes())
    try:
        Thread(target=_read, args=(pipe, calls), daemon=True).start()
        pipe.send(("connected", _connect(task)))
        task.request.serve(task, payload, calls, lambda kind, value: pipe.send((kind, value)))
    except KeyboardInterrupt:
        pass
    except WorkerCrashError as error:
        pipe.send(("failed", str(error)))
    except Exception as error:
        pipe.send(("lost", str(error) if isinstance(error, PoolError) else one_line(error)))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # _read may still send it
    if isinstance(task.place, RayNeeds):
        wait_for_joined(task.folder)


def _read(pipe: Any, calls: SimpleQueue[Any]) -> None:
    """Move calls from the pipe to the queue, so that sending one never blocks the parent."""
    try:
        while (packed := pipe.recv()) is not None:
            calls.put(packed)
    except (EOFError, OSError):
        pass
    # Ends the main thread whatever it waits for. On SIGTERM, Ray would abort.
    os.kill(os.getpid(), signal.SIGINT)


def _connect(task: DriverTask) -> PrivateRay | None:
    """Join a cluster or a private Ray, or start a private Ray, which is returned.

    Raises:
        PoolError: if Ray is not installed, cannot start, or the cluster refuses.
    """
    # Runs after Ray's own exit handler, which is registered later.
    atexit.register(shutil.rmtree, task.folder, ignore_errors=True)
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # would ship the working directory to the actors
        # Ray ends this process when the head node has been unreachable for this long.
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(math.ceil(task.timeout_s)),
    }
    try:
        options = _options(task)
        import ray

        ray.init(log_to_driver=False, **options)
    except ModuleNotFoundError as error:
        raise PoolError(
            f"{task.request.key} needs Ray ({error}); pip install -e '.[train]', or "
            f"{task.request.instead}"
        ) from error
    except Exception as error:
        raise PoolError(f"ray.address {task.address}: Ray refused: {one_line(error)}") from error
    if not isinstance(task.place, RayNeeds):
        return None
    address = ray.get_runtime_context().gcs_address
    return PrivateRay(address, os.environ["RAY_AUTH_TOKEN"], task.folder)


def _options(task: DriverTask) -> dict[str, Any]:
    """Arguments of ``ray.init``; changes the environment that Ray reads."""
    if task.place is None:
        return {"address": task.address}
    # Set by `ray job submit`; its files are in that other cluster.
    os.environ.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)
    if isinstance(task.place, PrivateRay):
        return join_options(task.place)
    return start_options(task.place, task.folder, gpus=task.request.gpus)


if __name__ == "__main__":
    main()
