"""The protocol of reward pools.

Shapes: N hypotheses, M references, L tokens. Hypotheses are packed into one int64 array (N, 1 + L):
column 0 is the image id, then the tokens including EOS, then PAD. References of their images are
packed in the same way, (M, 1 + L), with -1 in place of PAD.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from capdist.errors import CapdistError

PackedCaptions = NDArray[np.int64]
Scores = NDArray[np.float64]
#: Packed hypotheses and references to one reward per hypothesis (N,), which does not depend on the
#: others. Picklable.
Reward = Callable[[PackedCaptions, PackedCaptions], Scores]


class PoolError(CapdistError):
    """The workers cannot do what they were asked for."""


class Pending:
    """The rewards of one call, which may not have arrived yet."""

    def __init__(self, receive: Callable[[], None]) -> None:
        self._receive = receive
        self.future: Future[Scores] = Future()

    def compute(self, reward: Reward, packed: PackedCaptions, references: PackedCaptions) -> None:
        """Score in this thread and set the result."""
        try:
            self.future.set_result(score(reward, packed, references))
        except Exception as error:
            self.future.set_exception(error)

    def result(self) -> Scores:
        """Wait for the rewards: (N,) float64, in the order of the rows.

        Raises:
            PoolError: if the pool is closed, or scoring these captions crashes every actor.
            Exception: what the reward raised, with its own type.
        """
        while not self.future.done():
            self._receive()
        return self.future.result()


class RewardPool(ABC):
    """Scores packed hypotheses; the scores do not depend on the implementation."""

    def submit(self, packed: PackedCaptions, references: PackedCaptions) -> Pending:
        """Start to score (N, 1 + L) int64 hypotheses; N may be 0.

        Raises:
            ValueError: for another type or shape.
        """
        for what, array in (("hypotheses", packed), ("references", references)):
            if array.dtype != np.int64 or array.ndim != 2 or array.shape[1] < 1:
                raise ValueError(
                    f"packed {what} are {array.dtype} {array.shape}; expected int64 (N, 1 + L)"
                )
        return self._submit(packed, references)

    @abstractmethod
    def _submit(self, packed: PackedCaptions, references: PackedCaptions) -> Pending: ...

    @abstractmethod
    def close(self) -> None:
        """Stop the actors; pending results are dropped."""

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def score(reward: Reward, packed: PackedCaptions, references: PackedCaptions) -> Scores:
    """The checked reward of every hypothesis (N, 1 + L): (N,) float64.

    Raises:
        ValueError: if a reward is not finite (the message names the image), or there is not one
            reward per row.
    """
    packed = packed.view()
    packed.flags.writeable = False  # as in Ray's shared memory
    references = references.view()
    references.flags.writeable = False
    scores = np.asarray(reward(packed, references), np.float64)
    if scores.shape != packed.shape[:1]:
        raise ValueError(
            f"the reward returned {scores.shape} for {len(packed)} captions; expected one per row"
        )
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(
            f"image {packed[row, 0]}: the reward of a caption is {scores[row]}; expected a finite "
            f"number; check the image's references (tokens {packed[row, 1:].tolist()})"
        )
    return scores
