"""Ray actors that hold a reward; the driver's side of a pool.

N hypotheses of L tokens: a call is one packed array (N, 1 + L), its answer one array (N,).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from queue import SimpleQueue
from typing import Any

import numpy as np

from capdist.workers.ray_child import DriverTask, WorkerCrashError, death, one_line
from capdist.workers.reward_pool import PackedCaptions, PoolError, Reward, Scores, score

#: How often the captions of one call may lose the actors that score them.
ATTEMPTS = 3
#: An actor has one thread and no GPU, whatever its node has.
ACTOR_ENV = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


class Scorer:
    """An actor. Its reward's arrays lie in the node's shared memory, once for all its actors."""

    def __init__(self, reward: list[Any]) -> None:
        self._reference = reward[0]

    def load(self) -> None:
        """Map the reward: apart from the constructor, whose errors Ray takes for a death."""
        import ray

        try:
            self._reward: Reward = ray.get(self._reference)
        except Exception as error:
            raise PoolError(f"an actor can't load the reward: {one_line(error)}") from None

    def score(self, packed: PackedCaptions) -> Scores:
        """(N, 1 + L) to (N,)."""
        return score(self._reward, packed)


def serve(
    job: DriverTask,
    load: BytesIO,
    calls: SimpleQueue[PackedCaptions],
    send: Callable[[str, Any], None],
) -> None:
    """In the driver: ready, then for every call in turn scores or raised."""
    from ray.exceptions import RayTaskError

    with load:
        reward = pickle.load(load)
    actors = Actors(job, reward, lambda line: send("log", line))
    del reward  # it is in shared memory now
    send("ready", None)
    while True:
        try:
            send("scores", actors.score(calls.get()))
        except RayTaskError as error:
            send("raised", (error.cause, str(error)))


@dataclass(frozen=True, eq=False)
class Actor:
    """A handle, and the promise that it has loaded its reward."""

    handle: Any
    loaded: Any


class Actors:
    """Whoever is alive scores; a new actor starts for each that died.

    Ray can restart actors and repeat their calls by itself. But it would not say so, nor let
    another actor take over, and it would wait for ever where none can start.

    Raises:
        PoolError: if not all actors find a place in time, or one can't load the reward.
    """

    def __init__(self, job: DriverTask, reward: Reward, log: Callable[[str], None]) -> None:
        import ray
        from ray.exceptions import RayTaskError

        self._job, self._log = job, log
        self._reward = ray.put(reward)
        self._actors = [self._start() for _ in range(job.wish.actors)]
        promises = [actor.loaded for actor in self._actors]
        loaded, late = ray.wait(promises, num_returns=job.wish.actors, timeout=job.start_s)
        if late:
            raise PoolError(
                f"ray.address {job.address}: {len(loaded)} of {job.wish.actors} reward actors "
                f"with {job.wish.cpus:g} CPUs each found a place within {job.start_s:g} s; free "
                "CPUs, or lower reward.actors or reward.cpus"
            )
        try:
            ray.get(loaded)
        except RayTaskError as error:
            raise error.cause from None

    def score(self, packed: PackedCaptions) -> Scores:
        """(N, 1 + L) to (N,), each part of the rows by one actor.

        Raises:
            RayTaskError: if the reward raised something; its ``cause`` is what.
            WorkerCrashError: if actors keep dying over it.
            PoolError: if none comes back in time.
        """
        split = np.array_split(packed, self._job.wish.actors)
        parts = {i: part for i, part in enumerate(split) if len(part)}
        found: dict[int, Scores] = {}
        for attempt in range(ATTEMPTS):
            found |= self._attempt({i: parts[i] for i in parts.keys() - found.keys()}, attempt)
            if len(found) == len(parts):
                return np.concatenate([np.empty(0), *(found[i] for i in parts)])
        raise WorkerCrashError(
            f"ray.address {self._job.address}: reward actors died {ATTEMPTS} times over the same "
            "captions; see whether their nodes run out of memory"
        )

    def _attempt(self, parts: dict[int, PackedCaptions], number: int) -> dict[int, Scores]:
        """The parts whose actors live to the end; the other actors are replaced."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        alive = self._alive()
        if not alive:
            return {}
        calls, found = {}, {}
        for i, part in parts.items():
            actor = alive[(i + number) % len(alive)]  # at every attempt another
            calls[i] = actor, actor.handle.score.remote(part)
        for i, (actor, call) in calls.items():
            try:
                found[i] = ray.get(call)
            except RayTaskError:
                raise
            except RayError as error:
                self._replace(actor, error)
        return found

    def _start(self) -> Actor:
        import ray

        env = {"env_vars": ACTOR_ENV}
        options = {"num_cpus": self._job.wish.cpus, "num_gpus": 0, "runtime_env": env}
        handle = ray.remote(Scorer).options(**options).remote([self._reward])
        return Actor(handle, handle.load.remote())

    def _alive(self) -> list[Actor]:
        """Those that have their reward; waits until one has. None if those were dying."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        promises = {actor.loaded: actor for actor in self._actors}
        first, _ = ray.wait(list(promises), timeout=self._job.timeout_s)
        if not first:
            raise PoolError(
                f"ray.address {self._job.address}: no reward actor is left, and none came back "
                f"within {self._job.timeout_s:g} s"
            )
        done, _ = ray.wait(list(promises), num_returns=len(promises), timeout=0)
        alive = []
        for loaded in done:
            try:
                ray.get(loaded)
                alive.append(promises[loaded])
            except RayTaskError:
                raise
            except RayError as error:
                self._replace(promises[loaded], error)
        return alive

    def _replace(self, actor: Actor, error: Exception) -> None:
        """Start another actor in the place of one that died."""
        import ray

        if actor not in self._actors:
            return  # it took several parts along
        place = self._actors.index(actor)
        ray.kill(actor.handle)  # should it only have been cut off
        self._actors[place] = self._start()
        self._log(
            f"reward actor {place + 1} of {self._job.wish.actors} is lost: "
            f"{death(error)}; what it was scoring is scored again, "
            "and a new one starts"
        )
