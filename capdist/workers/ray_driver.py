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
from capdist.workers.driver_process import (
    DriverTask,
    WorkerCrashError,
    one_line,
    private_ray_environment,
)


def main() -> None:
    """Serve one parent until it sends None or exits; Ray stops with this process."""
    pipe = Connection(int(sys.argv[1]))
    os.set_inheritable(pipe.fileno(), False)  # Ray's processes would keep it open
    signal.signal(signal.SIGINT, signal.default_int_handler)
    calls: SimpleQueue[Any] = SimpleQueue()
    try:
        task: DriverTask = pipe.recv()
        payload = BytesIO(pipe.recv_bytes())
        Thread(target=_read, args=(pipe, calls), daemon=True).start()
        _connect(task, payload.getbuffer().nbytes)
        pipe.send(("connected", None))
        task.request.serve(task, payload, calls, lambda kind, value: pipe.send((kind, value)))
    except KeyboardInterrupt:
        pass
    except WorkerCrashError as error:
        pipe.send(("failed", str(error)))
    except Exception as error:
        pipe.send(("lost", str(error) if isinstance(error, PoolError) else one_line(error)))


def _read(pipe: Any, calls: SimpleQueue[Any]) -> None:
    """Move calls from the pipe to the queue, so that sending one never blocks the parent."""
    try:
        while (packed := pipe.recv()) is not None:
            calls.put(packed)
    except (EOFError, OSError):
        pass
    # Ends the main thread whatever it waits for. On SIGTERM, Ray would abort.
    os.kill(os.getpid(), signal.SIGINT)


def _connect(task: DriverTask, payload_bytes: int) -> None:
    """Join the cluster, or start a private Ray with memory for the payload.

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
    options: dict[str, Any] = {}
    if task.address == "local":
        request = task.request
        options = {
            # At least what the actors ask for: Ray would never place them on fewer cores.
            "num_cpus": math.ceil(request.actors * request.cpus),
            "num_gpus": None if request.gpus else 0,
            "include_dashboard": False,
            "object_store_memory": 2 * payload_bytes + 2**27,
            "_temp_dir": task.folder,
        }
        # Set by `ray job submit`; its files are in that other cluster.
        os.environ.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)
        os.environ |= private_ray_environment()
    try:
        import ray

        ray.init(task.address, log_to_driver=False, **options)
    except ModuleNotFoundError as error:
        raise PoolError(
            f"{task.request.key} needs Ray ({error}); pip install -e '.[train]', or "
            f"{task.request.instead}"
        ) from error
    except Exception as error:
        raise PoolError(f"ray.address {task.address}: Ray refused: {one_line(error)}") from error


if __name__ == "__main__":
    main()
