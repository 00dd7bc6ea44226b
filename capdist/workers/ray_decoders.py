"""Ray actors that decode parts of a split, and the driver's side of `eval_pool`.

A part is a range of batches. Its actor returns one batch after the other, so that if the actor is
lost only the batches that it has not returned are decoded again.
"""

from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from capdist.workers.base import PoolError
from capdist.workers.driver_process import DriverTask, WorkerCrashError, crash_reason, one_line

#: How often a batch may crash the worker that decodes it.
ATTEMPTS = 3

Send = Callable[[str, Any], None]


class Decoder:
    """An actor. `started` returns at once; loading a model and decoding a batch take time."""

    def __init__(self, split: list[Any], folder: str, threads: int) -> None:
        self._reference, self._folder, self._threads = split[0], folder, threads

    def started(self) -> None:
        """Answers once the actor has been placed."""

    def load(self) -> None:
        """Unpickle the split and its model, in the parent's working directory if it exists here.

        Not in the constructor: Ray reports an error there as a dead actor.
        """
        import ray

        if Path(self._folder).is_dir():
            os.chdir(self._folder)
        os.environ["OMP_NUM_THREADS"] = str(self._threads)  # read when unpickling imports torch
        try:
            self._split = pickle.loads(ray.get(self._reference))
        except Exception as error:
            raise PoolError(f"a worker cannot load the model: {one_line(error)}") from None

    def decode_from(self, start: int) -> Any:
        """The captions of batch ``start``."""
        self._decoded: Iterator[Any] = self._split.decode(start)
        return self.decode_next()

    def decode_next(self) -> Any:
        """The captions of the batch after the last one."""
        return next(self._decoded)


@dataclass(eq=False)
class Worker:
    """A handle, the future of its last call, and the batches that it still has to return.

    ``state`` is "starting", "loading", "decoding" or "idle".
    """

    handle: Any
    call: Any
    state: str = "starting"
    part: range = range(0)


def serve(task: DriverTask, payload: BytesIO, calls: SimpleQueue[int], send: Send) -> None:
    """In the driver: send "batch" for every batch, or "raised"; then "done"."""
    from ray.exceptions import RayTaskError

    with payload:
        decoders = Decoders(task, payload.getvalue(), calls.get(), send)
    try:
        decoders.run()
    except RayTaskError as error:
        send("raised", (error.cause, str(error)))
    send("done", None)


class Decoders:
    """Workers that decode; each one that crashes is replaced.

    Args:
        task: the number of workers, and where they run.
        split: a pickled `eval_pool.SplitDecoding`.
        batches: number of batches of the split.
        send: sends an answer to the parent.
    """

    def __init__(self, task: DriverTask, split: bytes, batches: int, send: Send) -> None:
        import ray

        self._task, self._request, self._send = task, task.request, send
        self._gpus = int(ray.cluster_resources().get("GPU", 0) >= 1)
        self._split = ray.put(split)
        count = self._request.actors
        cuts = [batches * i // count for i in range(count + 1)]
        self._unassigned = [range(a, b) for a, b in pairwise(cuts) if a < b]
        self._workers = [self._start() for _ in self._unassigned]
        self._crashes: Counter[str] = Counter()

    def run(self) -> None:
        """Decode until all batches are returned.

        Raises:
            RayTaskError: if a worker raised an exception, which is its ``cause``.
            WorkerCrashError: if workers keep crashing on the same batch.
            PoolError: if there is no worker, and none starts in time.
        """
        while self._unassigned or any(worker.part for worker in self._workers):
            for worker in self._wait():
                self._receive(worker)

    def _wait(self) -> list[Worker]:
        """The workers that have answered."""
        import ray

        calls = {worker.call: worker for worker in self._workers if worker.state != "idle"}
        placed = any(worker.state != "starting" for worker in self._workers)
        done, _ = ray.wait(list(calls), timeout=None if placed else self._task.start_s)
        if not done:
            gpus = " and a GPU" if self._gpus else ""
            raise PoolError(
                f"ray.address {self._task.address}: no worker with {self._request.cpus:g} CPUs"
                f"{gpus} was placed within {self._task.start_s:g} s; free some, or ask for fewer"
            )
        return [calls[call] for call in done]

    def _receive(self, worker: Worker) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            captions = ray.get(worker.call)
        except RayTaskError:
            raise
        except RayError as error:
            self._replace(worker, error)
            return
        if worker.state == "starting":
            worker.state, worker.call = "loading", worker.handle.load.remote()
            return
        if worker.state == "decoding":
            self._send("batch", (worker.part[0], captions))
            worker.part = worker.part[1:]
        self._assign(worker)

    def _assign(self, worker: Worker) -> None:
        """Ask for the next batch of its part, or assign another part."""
        if worker.part:
            worker.call = worker.handle.decode_next.remote()
        elif self._unassigned:
            worker.state, worker.part = "decoding", self._unassigned.pop(0)
            worker.call = worker.handle.decode_from.remote(worker.part[0])
        else:
            worker.state = "idle"

    def _start(self) -> Worker:
        import ray

        cpus = self._request.cpus
        actor = ray.remote(Decoder).options(num_cpus=cpus, num_gpus=self._gpus)
        handle = actor.remote([self._split], os.getcwd(), max(1, int(cpus)))
        return Worker(handle, handle.started.remote())

    def _replace(self, worker: Worker, error: Exception) -> None:
        """Start a replacement; the rest of the part goes to the first worker that is idle."""
        import ray

        index = self._workers.index(worker)
        what = f"batch {worker.part[0] + 1}" if worker.part else "loading the model"
        self._crashes[what] += 1
        if self._crashes[what] == ATTEMPTS:
            raise WorkerCrashError(
                f"ray.address {self._task.address}: workers crashed {ATTEMPTS} times on {what}; "
                "check whether their nodes run out of memory, or lower decoding.batch"
            )
        ray.kill(worker.handle)  # in case it is only unreachable
        self._workers[index] = self._start()
        rest = f"another worker continues from {what}" if worker.part else "it had no batches"
        self._send(
            "log",
            f"worker {index + 1} of {len(self._workers)} is lost: {crash_reason(error)}; {rest}, "
            "and a replacement starts",
        )
        if worker.part:
            self._unassigned.insert(0, worker.part)
            for other in self._workers:
                if other.state == "idle" and self._unassigned:
                    self._assign(other)
