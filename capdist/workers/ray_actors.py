"""Ray actors that hold a reward, and the driver's side of a reward pool.

A call is N packed hypotheses (N, 1 + L) and the references of their images, its answer (N,).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from queue import SimpleQueue
from typing import Any

import numpy as np

from capdist.workers.base import PackedCaptions, PoolError, Reward, Scores, score
from capdist.workers.driver_process import DriverTask, WorkerCrashError, crash_reason, one_line

#: How often the captions of one call may crash the actors that score them.
ATTEMPTS = 3
#: An actor has one thread and no GPU, whatever its node has.
ACTOR_ENV = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
#: Hypotheses and references.
Call = tuple[PackedCaptions, PackedCaptions]


class Scorer:
    """An actor. The arrays of its reward are in the node's shared memory, once for all actors."""

    def __init__(self, reward: list[Any]) -> None:
        self._reference = reward[0]

    def load(self) -> None:
        """Map the reward. Not in the constructor: Ray reports an error there as a dead actor."""
        import ray

        try:
            self._reward: Reward = ray.get(self._reference)
        except Exception as error:
            raise PoolError(f"an actor cannot load the reward: {one_line(error)}") from None

    def score(self, packed: PackedCaptions, references: PackedCaptions) -> Scores:
        """(N, 1 + L) and (M, 1 + L) to (N,)."""
        return score(self._reward, packed, references)


def serve(
    task: DriverTask,
    payload: BytesIO,
    calls: SimpleQueue[Call],
    send: Callable[[str, Any], None],
) -> None:
    """In the driver: send "ready", then "scores" or "raised" for every call in turn."""
    from ray.exceptions import RayTaskError

    with payload:
        reward = pickle.load(payload)
    actors = Actors(task, reward, lambda line: send("log", line))
    del reward  # it is in shared memory now
    send("ready", None)
    try:
        while True:
            try:
                send("scores", actors.score(*calls.get()))
            except RayTaskError as error:
                send("raised", (error.cause, str(error)))
    finally:
        actors.stop()


@dataclass(frozen=True, eq=False)
class Actor:
    """A handle, and the future of its ``load``."""

    handle: Any
    loaded: Any


class Actors:
    """Actors that score; each one that crashes is replaced.

    Ray can restart actors and repeat their calls by itself, but without reporting it, without
    handing the call to another actor, and with no time limit where no actor can start.

    Raises:
        PoolError: if the actors cannot all be placed in time, or one cannot load the reward.
    """

    def __init__(self, task: DriverTask, reward: Reward, log: Callable[[str], None]) -> None:
        import ray
        from ray.exceptions import RayTaskError

        self._task, self._request, self._log = task, task.request, log
        self._reward = ray.put(reward)
        self._actors = [self._start() for _ in range(self._request.actors)]
        futures = [actor.loaded for actor in self._actors]
        loaded, late = ray.wait(futures, num_returns=len(futures), timeout=task.start_s)
        if late:
            raise PoolError(
                f"ray.address {task.address}: {len(loaded)} of {self._request.actors} reward "
                f"actors with {self._request.cpus:g} CPUs each were placed within "
                f"{task.start_s:g} s; free CPUs, or lower reward.actors or reward.cpus"
            )
        try:
            ray.get(loaded)
        except RayTaskError as error:
            raise error.cause from None

    def score(self, packed: PackedCaptions, references: PackedCaptions) -> Scores:
        """(N, 1 + L) and (M, 1 + L) to (N,), each part of the N rows by one actor.

        Raises:
            RayTaskError: if the reward raised an exception, which is its ``cause``.
            WorkerCrashError: if actors keep crashing on these captions.
            PoolError: if none comes back in time.
        """
        split = np.array_split(packed, self._request.actors)
        parts = {
            i: (part, references[np.isin(references[:, 0], part[:, 0])])
            for i, part in enumerate(split)
            if len(part)
        }
        scores: dict[int, Scores] = {}
        for attempt in range(ATTEMPTS):
            scores |= self._attempt({i: parts[i] for i in parts.keys() - scores.keys()}, attempt)
            if len(scores) == len(parts):
                return np.concatenate([np.empty(0), *(scores[i] for i in parts)])
        raise WorkerCrashError(
            f"ray.address {self._task.address}: reward actors crashed {ATTEMPTS} times on the same "
            "captions; check whether their nodes run out of memory"
        )

    def stop(self) -> None:
        """End the actors at once: other ranks may use the Ray of this process after it."""
        import ray
        from ray.exceptions import RayError

        with suppress(RayError):
            for actor in self._actors:
                ray.kill(actor.handle)

    def _attempt(self, parts: dict[int, Call], number: int) -> dict[int, Scores]:
        """The scores of the parts whose actors survive; the other actors are replaced."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        alive = self._alive()
        if not alive:
            return {}
        calls, scores = {}, {}
        for i, part in parts.items():
            actor = alive[(i + number) % len(alive)]  # another one at every attempt
            calls[i] = actor, actor.handle.score.remote(*part)
        for i, (actor, call) in calls.items():
            try:
                scores[i] = ray.get(call)
            except RayTaskError:
                raise
            except RayError as error:
                self._replace(actor, error)
        return scores

    def _start(self) -> Actor:
        import ray

        env = {"env_vars": ACTOR_ENV}
        options = {"num_cpus": self._request.cpus, "num_gpus": 0, "runtime_env": env}
        handle = ray.remote(Scorer).options(**options).remote([self._reward])
        return Actor(handle, handle.load.remote())

    def _alive(self) -> list[Actor]:
        """Wait for a first actor that has answered; those that have loaded their reward.

        Empty if all that answered had crashed; they are replaced.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        futures = {actor.loaded: actor for actor in self._actors}
        first, _ = ray.wait(list(futures), timeout=self._task.timeout_s)
        if not first:
            raise PoolError(
                f"ray.address {self._task.address}: no reward actor is left, and none came back "
                f"within {self._task.timeout_s:g} s"
            )
        done, _ = ray.wait(list(futures), num_returns=len(futures), timeout=0)
        alive = []
        for loaded in done:
            try:
                ray.get(loaded)
                alive.append(futures[loaded])
            except RayTaskError:
                raise
            except RayError as error:
                self._replace(futures[loaded], error)
        return alive

    def _replace(self, actor: Actor, error: Exception) -> None:
        import ray

        if actor not in self._actors:
            return  # it had several parts and is replaced already
        index = self._actors.index(actor)
        ray.kill(actor.handle)  # in case it is only unreachable
        self._actors[index] = self._start()
        self._log(
            f"reward actor {index + 1} of {self._request.actors} is lost: {crash_reason(error)}; "
            "its captions are scored again, and a replacement starts"
        )
