"""Ray's driver, a child of whoever asks: see `ray_child`.

``python -m capdist.workers.ray_driver FD`` reads a `DriverTask`, its load and calls from the pipe.
It answers with pairs: connected; what the job serves; log at any time. Its end is failed, or lost
where another could do better.
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

from capdist.workers.ray_child import DriverTask, WorkerCrashError, one_line, own_ray
from capdist.workers.reward_pool import PoolError


def main() -> None:
    """Serve one parent until it says None or is gone; Ray ends with this process."""
    pipe = Connection(int(sys.argv[1]))
    os.set_inheritable(pipe.fileno(), False)  # Ray's processes would keep it open
    signal.signal(signal.SIGINT, signal.default_int_handler)
    calls: SimpleQueue[Any] = SimpleQueue()
    try:
        job: DriverTask = pipe.recv()
        load = BytesIO(pipe.recv_bytes())
        Thread(target=_read, args=(pipe, calls), daemon=True).start()
        _connect(job, load.getbuffer().nbytes)
        pipe.send(("connected", None))
        job.wish.serve(job, load, calls, lambda kind, value: pipe.send((kind, value)))
    except KeyboardInterrupt:
        pass
    except WorkerCrashError as error:
        pipe.send(("failed", str(error)))
    except Exception as error:
        pipe.send(("lost", str(error) if isinstance(error, PoolError) else one_line(error)))


def _read(pipe: Any, calls: SimpleQueue[Any]) -> None:
    """Take calls off the pipe as they come, so that the parent never waits to send one."""
    try:
        while (packed := pipe.recv()) is not None:
            calls.put(packed)
    except (EOFError, OSError):
        pass
    # Ends the main thread, whatever it waits for. Of SIGTERM, Ray would make an abort.
    os.kill(os.getpid(), signal.SIGINT)


def _connect(job: DriverTask, size: int) -> None:
    """Join the cluster, or start a Ray that has room for ``size`` bytes of load.

    Raises:
        PoolError: if Ray is not installed, can't start, or the cluster refuses.
    """
    # Runs after Ray's own, which is registered later.
    atexit.register(shutil.rmtree, job.folder, ignore_errors=True)
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # would ship the working directory to the actors
        # Ray ends this process when the cluster's head has been away for so long.
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(math.ceil(job.timeout_s)),
    }
    own: dict[str, Any] = {}
    if job.address == "local":
        own = {
            # At least what the actors want, or they would never find a place on few cores.
            "num_cpus": math.ceil(job.wish.actors * job.wish.cpus),
            "num_gpus": None if job.wish.gpus else 0,
            "include_dashboard": False,
            "object_store_memory": 2 * size + 2**27,
            "_temp_dir": job.folder,
        }
        # Of the job that `ray job submit` has made this; its files are in another cluster.
        os.environ.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)
        os.environ |= own_ray()
    try:
        import ray

        ray.init(job.address, log_to_driver=False, **own)
    except ModuleNotFoundError as error:
        raise PoolError(
            f"{job.wish.key} needs Ray ({error}); pip install -e '.[train]', or {job.wish.instead}"
        ) from error
    except Exception as error:
        raise PoolError(f"ray.address {job.address}: Ray refuses: {one_line(error)}") from error


if __name__ == "__main__":
    main()
