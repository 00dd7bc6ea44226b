"""Rewards scored by Ray actors, or in this process.

with open_pool(reward, config.reward, config.ray, print) as pool:
    pending = pool.submit(packed, references)  # returns at once; decode the next micro-batch
    scores = pending.result()       # (N,) float64
"""

from __future__ import annotations

from collections.abc import Callable

from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.workers.base import PackedCaptions, Pending, Reward, RewardPool
from capdist.workers.node_ray import Group
from capdist.workers.ray_pool import RayPool


def open_pool(
    reward: Reward,
    rewards: RewardConfig,
    cluster: RayConfig,
    log: Callable[[str], None],
    group: Group | None = None,
) -> RewardPool:
    """A pool of ``rewards.actors`` Ray actors, or an in-process pool if that is 0.

    Args:
        reward: its class must be importable wherever actors run. Actors see its arrays, and the
            packed captions and references, read-only.
        rewards: the number of actors and the CPUs of each.
        cluster: which Ray runs them.
        log: receives a line for every actor that crashes and for the loss of Ray, when a result is
            asked for.
        group: the ranks, which all open their pools together; None: this process is alone.

    Raises:
        PoolError: if the actors are not ready within about twice ``cluster.timeout_s``, on the
            first rank where they are not.
        OtherRankError: on the others.
    """
    if rewards.actors == 0:
        return InProcessPool(reward)
    return RayPool(reward, rewards, cluster, log, group)


class InProcessPool(RewardPool):
    """The reference implementation: scores at once, in the caller's own thread."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    def _submit(self, packed: PackedCaptions, references: PackedCaptions) -> Pending:
        pending = Pending(lambda: None)
        pending.compute(self._reward, packed, references)
        return pending

    def close(self) -> None:
        pass
