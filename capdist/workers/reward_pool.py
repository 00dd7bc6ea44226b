"""Rewards scored beside the trainer: by Ray actors, or in-process by a plain twin.

Shapes: N hypotheses, L tokens. Hypotheses are packed into one int64 array (N, 1 + L): column 0 is
the image id, then the tokens with their EOS, then PAD.

    with open_pool(reward, config.reward, config.ray, print) as pool:
        pending = pool.submit(packed)   # returns at once; decode the next micro-batch meanwhile
        scores = pending.result()       # (N,) float64
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.errors import CapdistError

PackedCaptions = NDArray[np.int64]
Scores = NDArray[np.float64]
#: PackedCaptions hypotheses (N, 1 + L) to a reward for each (N,), row by row. Picklable.
Reward = Callable[[PackedCaptions], Scores]


class PoolError(CapdistError):
    """Rewards can't be had; one line that says where and what to do."""


class Pending:
    """The rewards of one call, which may still be on their way."""

    def __init__(self, receive: Callable[[], None]) -> None:
        self._receive = receive
        self.future: Future[Scores] = Future()

    def compute(self, reward: Reward, packed: PackedCaptions) -> None:
        """The result, here and now."""
        try:
            self.future.set_result(score(reward, packed))
        except Exception as error:
            self.future.set_exception(error)

    def result(self) -> Scores:
        """(N,) float64, in the order of the rows; waits for it.

        Raises:
            PoolError: if the pool is closed, or the captions kill every actor.
            Exception: what the reward raised, of its own type.
        """
        while not self.future.done():
            self._receive()
        return self.future.result()


class RewardPool(ABC):
    """Scores packed hypotheses; the result depends on neither the twin nor the actors."""

    def submit(self, packed: PackedCaptions) -> Pending:
        """Start to score (N, 1 + L) int64 hypotheses; N may be 0.

        Raises:
            ValueError: if that is another type or shape.
        """
        if packed.dtype != np.int64 or packed.ndim != 2 or packed.shape[1] < 1:
            raise ValueError(
                f"packed hypotheses are {packed.dtype} {packed.shape}; expected int64 (N, 1 + L)"
            )
        return self._submit(packed)

    @abstractmethod
    def _submit(self, packed: PackedCaptions) -> Pending: ...

    @abstractmethod
    def close(self) -> None:
        """End the actors. What is still pending is given up."""

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_pool(
    reward: Reward, rewards: RewardConfig, cluster: RayConfig, log: Callable[[str], None]
) -> RewardPool:
    """A pool of ``rewards.actors`` Ray actors, or the in-process twin where that is 0.

    Args:
        reward: its class must be importable wherever actors run. Actors see its arrays, and the
            packed ones, read-only.
        rewards: how many actors, with how many CPUs each.
        cluster: where.
        log: is told of every actor that died, and of Ray's loss, when a result is asked for.

    Raises:
        PoolError: if the actors are not there within about twice ``cluster.timeout_s``.
    """
    if rewards.actors == 0:
        return InProcessPool(reward)
    from capdist.workers.ray_pool import RayPool

    return RayPool(reward, rewards, cluster, log)


def score(reward: Reward, packed: PackedCaptions) -> Scores:
    """The reward of every row, checked; what both twins compute.

    Raises:
        ValueError: if a reward is not finite, naming the image, or not one a row.
    """
    packed = packed.view()
    packed.flags.writeable = False  # as Ray's shared memory is
    scores = np.asarray(reward(packed), np.float64)
    if scores.shape != packed.shape[:1]:
        raise ValueError(
            f"the reward gave {scores.shape} for {len(packed)} captions; expected one for each"
        )
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(
            f"image {packed[row, 0]}: the reward of a caption is {scores[row]}; expected a finite "
            f"number; check the image's references (tokens {packed[row, 1:].tolist()})"
        )
    return scores


class InProcessPool(RewardPool):
    """The plain twin: scores at once, in the caller's own process."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    def _submit(self, packed: PackedCaptions) -> Pending:
        pending = Pending(lambda: None)
        pending.compute(self._reward, packed)
        return pending

    def close(self) -> None:
        """Nothing to end."""
