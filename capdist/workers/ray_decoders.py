"""Ray actors that decode parts of a split; the driver's side of `eval_pool`.

A part is a range of batches. Its actor gives back one batch after the other, so that of a part
whose actor is lost only what has not been given back is decoded again.
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

from capdist.workers.ray_child import DriverTask, WorkerCrashError, death, one_line
from capdist.workers.reward_pool import PoolError

#: How often a batch may lose the worker that decodes it.
ATTEMPTS = 3

Send = Callable[[str, Any], None]


class Decoder:
    """An actor. All but `here` may take long: a model is loaded, a batch decoded."""

    def __init__(self, task: list[Any], folder: str, threads: int) -> None:
        self._task, self._folder, self._threads = task[0], folder, threads

    def here(self) -> None:
        """Apart from the constructor, whose errors Ray takes for a death."""

    def load(self) -> None:
        """Get the model, in the folder that relative paths start from where this node has it."""
        import ray

        if Path(self._folder).is_dir():
            os.chdir(self._folder)
        os.environ["OMP_NUM_THREADS"] = str(self._threads)  # read when the model brings torch
        try:
            self._split = pickle.loads(ray.get(self._task))
        except Exception as error:
            raise PoolError(f"a worker can't load the model: {one_line(error)}") from None

    def begin(self, start: int) -> Any:
        """The captions of batch ``start``."""
        self._found: Iterator[Any] = self._split.decode(start)
        return self.following()

    def following(self) -> Any:
        """Those of the batch behind it."""
        return next(self._found)


@dataclass(eq=False)
class Worker:
    """A handle, what it was asked last, and the batches that it still has to give back."""

    handle: Any
    call: Any
    state: str = "coming"
    part: range = range(0)


def serve(job: DriverTask, load: BytesIO, calls: SimpleQueue[int], send: Send) -> None:
    """In the driver: found for every batch, raised, or done."""
    from ray.exceptions import RayTaskError

    with load:
        decoders = Decoders(job, load.getvalue(), calls.get(), send)
    try:
        decoders.run()
    except RayTaskError as error:
        send("raised", (error.cause, str(error)))
    send("done", None)


class Decoders:
    """Whoever is there decodes; a new worker starts for each that is lost.

    Args:
        job: how many, and where.
        task: a pickled `eval_pool.SplitDecoding`.
        batches: of the split.
        send: gives an answer to the parent.
    """

    def __init__(self, job: DriverTask, task: bytes, batches: int, send: Send) -> None:
        import ray

        self._job, self._send = job, send
        self._gpus = int(ray.cluster_resources().get("GPU", 0) >= 1)
        self._task = ray.put(task)
        cuts = [batches * i // job.wish.actors for i in range(job.wish.actors + 1)]
        self._left = [range(a, b) for a, b in pairwise(cuts) if a < b]
        self._workers = [self._start() for _ in self._left]
        self._deaths: Counter[str] = Counter()

    def run(self) -> None:
        """Until all batches are given back.

        Raises:
            RayTaskError: what a worker raised; its ``cause`` is what.
            WorkerCrashError: if workers keep dying over the same batch.
            PoolError: if no worker is there, and none comes in time.
        """
        while self._left or any(worker.part for worker in self._workers):
            for worker in self._wait():
                self._receive(worker)

    def _wait(self) -> list[Worker]:
        """Those that have answered."""
        import ray

        asked = {worker.call: worker for worker in self._workers if worker.state != "idle"}
        here = any(worker.state != "coming" for worker in self._workers)
        done, _ = ray.wait(list(asked), timeout=None if here else self._job.start_s)
        if not done:
            gpus = " and a GPU" if self._gpus else ""
            raise PoolError(
                f"ray.address {self._job.address}: no worker with {self._job.wish.cpus:g} CPUs"
                f"{gpus} found a place within {self._job.start_s:g} s; free some, or ask for less"
            )
        return [asked[call] for call in done]

    def _receive(self, worker: Worker) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            found = ray.get(worker.call)
        except RayTaskError:
            raise
        except RayError as error:
            self._replace(worker, error)
            return
        if worker.state == "coming":
            worker.state, worker.call = "loading", worker.handle.load.remote()
            return
        if worker.state == "decoding":
            self._send("found", (worker.part[0], found))
            worker.part = worker.part[1:]
        self._occupy(worker)

    def _occupy(self, worker: Worker) -> None:
        """The next batch of its part, or another part."""
        if worker.part:
            worker.call = worker.handle.following.remote()
        elif self._left:
            worker.state, worker.part = "decoding", self._left.pop(0)
            worker.call = worker.handle.begin.remote(worker.part[0])
        else:
            worker.state = "idle"

    def _start(self) -> Worker:
        import ray

        cpus = self._job.wish.cpus
        actor = ray.remote(Decoder).options(num_cpus=cpus, num_gpus=self._gpus)
        handle = actor.remote([self._task], os.getcwd(), max(1, int(cpus)))
        return Worker(handle, handle.here.remote())

    def _replace(self, worker: Worker, error: Exception) -> None:
        """Another takes over what is left of its part: whoever is idle first, or a new one."""
        import ray

        place = self._workers.index(worker)
        what = f"batch {worker.part[0] + 1}" if worker.part else "loading the model"
        self._deaths[what] += 1
        if self._deaths[what] == ATTEMPTS:
            raise WorkerCrashError(
                f"ray.address {self._job.address}: workers died {ATTEMPTS} times over {what}; see "
                "whether their nodes run out of memory, or lower decoding.batch"
            )
        ray.kill(worker.handle)  # should it only have been cut off
        self._workers[place] = self._start()
        again = f"its part is decoded on elsewhere from {what} on" if worker.part else "it had none"
        self._send(
            "log",
            f"worker {place + 1} of {len(self._workers)} is lost: {death(error)}; {again}, and a "
            "new one starts",
        )
        if worker.part:
            self._left.insert(0, worker.part)
            for other in self._workers:
                if other.state == "idle" and self._left:
                    self._occupy(other)
