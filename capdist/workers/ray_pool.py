"""The trainer's side of a pool of Ray actors; the Ray driver is a child process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.workers.base import PackedCaptions, Pending, Reward, RewardPool
from capdist.workers.driver_process import GRACE_S, ActorRequest, RayLostError, actor_error
from capdist.workers.node_ray import Group, OneRank, open_driver
from capdist.workers.ray_actors import serve


class RayPool(RewardPool):
    """A pool of Ray actors, for one thread of the trainer.

    Once the pool is open, training does not depend on Ray: when Ray is lost, for example because a
    scheduler signals all processes of a job, the trainer scores the remaining captions itself.
    """

    def __init__(
        self,
        reward: Reward,
        rewards: RewardConfig,
        cluster: RayConfig,
        log: Callable[[str], None],
        group: Group | None = None,
    ) -> None:
        group = group or OneRank()
        self._reward, self._log, self._lost = reward, log, False
        self._waiting: deque[tuple[Pending, PackedCaptions, PackedCaptions]] = deque()
        request = ActorRequest(
            rewards.actors,
            rewards.cpus,
            False,
            f"reward.actors {rewards.actors}",
            "set reward.actors to 0 to score in the trainer's own process",
            serve,
        )
        self._driver = driver = open_driver(request, cluster, reward, log, group)
        try:
            # Until the actors have loaded the reward; the driver itself keeps the time limit.
            group.agree(lambda: driver.answer(driver.start_s + GRACE_S))
        except BaseException:
            self.close()
            raise

    def _submit(self, packed: PackedCaptions, references: PackedCaptions) -> Pending:
        pending = Pending(self._receive)
        if self._lost and not self._driver.failure:
            pending.compute(self._reward, packed, references)
        else:
            self._driver.send((packed, references))
            self._waiting.append((pending, packed, references))
        return pending

    def close(self) -> None:
        """Stop the actors, and Ray if it is private; pending results are dropped."""
        self._driver.failure = self._driver.failure or "the reward pool is closed"
        self._driver.stop()

    def _receive(self) -> None:
        """Receive the answer to the oldest call, or score all waiting calls if Ray is lost."""
        try:
            kind, value = self._driver.answer(None)
        except RayLostError as error:
            self._log(f"{error}; the trainer scores the rewards itself from now on")
            self._lost = True
            while self._waiting:
                pending, packed, references = self._waiting.popleft()
                pending.compute(self._reward, packed, references)
            return
        future = self._waiting.popleft()[0].future
        if kind == "scores":
            future.set_result(value)
        else:
            future.set_exception(actor_error(value))
