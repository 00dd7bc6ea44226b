"""The trainer's side of a pool of Ray actors; Ray's driver is a child process, `ray_child`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.workers.ray_actors import serve
from capdist.workers.ray_child import GRACE_S, ActorRequest, RayChild, RayLostError, raised
from capdist.workers.reward_pool import PackedCaptions, Pending, Reward, RewardPool


class RayPool(RewardPool):
    """A pool of Ray actors, behind the child that drives them; for one thread of the trainer.

    Once it is open, training does not depend on Ray: when Ray is lost, as it is when a scheduler
    signals all processes of a job, the trainer scores what is left by itself.
    """

    def __init__(
        self,
        reward: Reward,
        rewards: RewardConfig,
        cluster: RayConfig,
        log: Callable[[str], None],
    ) -> None:
        self._reward, self._log, self._lost = reward, log, False
        self._waiting: deque[tuple[Pending, PackedCaptions]] = deque()
        wish = ActorRequest(
            rewards.actors,
            rewards.cpus,
            False,
            f"reward.actors {rewards.actors}",
            "set reward.actors to 0 to score in the trainer's own process",
            serve,
        )
        self._child = RayChild(wish, cluster, reward, log)
        try:
            # To load the reward; the driver itself keeps the limit.
            self._child.answer(self._child.start_s + GRACE_S)
        except BaseException:
            self.close()
            raise

    def _submit(self, packed: PackedCaptions) -> Pending:
        pending = Pending(self._settle)
        if self._lost and not self._child.failure:
            pending.compute(self._reward, packed)
        else:
            self._child.send(packed)
            self._waiting.append((pending, packed))
        return pending

    def close(self) -> None:
        """End the actors, and Ray where it is the pool's own; what is pending is given up."""
        self._child.failure = self._child.failure or "the reward pool is closed"
        self._child.end()

    def _settle(self) -> None:
        """Receive the answer to the oldest call, or score all that wait if there will be none."""
        try:
            kind, value = self._child.answer(None)
        except RayLostError as error:
            self._log(f"{error}; the trainer scores the rewards itself from here on")
            self._lost = True
            self._child.end()
            while self._waiting:
                pending, packed = self._waiting.popleft()
                pending.compute(self._reward, packed)
            return
        future = self._waiting.popleft()[0].future
        if kind == "scores":
            future.set_result(value)
        else:
            future.set_exception(raised(value))
