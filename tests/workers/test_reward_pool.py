"""Ray actors and the in-process pool give the same rewards, whatever crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.workers.base import PoolError
from capdist.workers.reward_pool import open_pool
from tests.support import toy_reward
from tests.support.pools import at, compare, in_process, slow, until
from tests.support.toy_reward import DEADLY, captions, references


class Three:
    """A pool of three actors on the running Ray, and its log."""

    def __init__(self, address: str, folder: Path) -> None:
        self.folder, self.logged = folder, list[str]()
        self.pool = open_pool(
            toy_reward.toy(folder), RewardConfig(actors=3), at(address), self.logged.append
        )

    def pids(self) -> set[float]:
        """The processes that score, one row each."""
        ask = np.array([[toy_reward.PID, 0]] * 3)
        return set(self.pool.submit(ask, references(ask)).result())

    def busy(self) -> list[int]:
        """The processes that are scoring a slow call."""
        until(lambda: len(list(self.folder.iterdir())) == 3)
        return sorted(int(path.name) for path in self.folder.iterdir())


@pytest.fixture(scope="module")
def shared(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    pool = Three(cluster.address, tmp_path_factory.mktemp("busy"))
    with pool.pool:
        yield pool


@pytest.fixture
def three(shared: Three) -> Three:
    """The shared pool, once killed actors are replaced, with an empty log."""
    until(lambda: len(shared.pids()) == 3)
    for path in shared.folder.iterdir():
        path.unlink()
    shared.logged.clear()
    return shared


def test_in_process_scores_equal_hand_computed_ones(tmp_path: Path) -> None:
    weights = np.array([0.0, 0.5, 2.0, 4.0])
    with open_pool(
        toy_reward.Toy(weights, tmp_path), RewardConfig(actors=0), RayConfig(), print
    ) as pool:
        packed = np.array([[1, 3, 2, 0], [2, 1, 1, 1]])
        assert pool.submit(packed, references(packed)).result().tolist() == [10.0, 6.5]
        assert packed.flags.writeable


def test_three_actors_equal_the_in_process_pool(three: Three) -> None:
    compare(three.pool)


def test_actors_share_read_only_memory_with_one_thread_and_no_gpu(three: Three) -> None:
    facts = np.tile(np.arange(toy_reward.PID, toy_reward.IMAGES), 3)
    asked = np.stack([facts, facts * 0], 1)
    scores = three.pool.submit(asked, references(asked)).result().reshape(3, -1)
    pids, inodes, writable, threads, gpus = scores.T
    assert len(set(pids)) == 3
    assert len(set(inodes)) == 1
    assert inodes[0] > 0
    assert not writable.any()
    assert (threads == 1).all()
    assert not gpus.any()


def test_exceptions_of_the_reward_are_raised_by_result(three: Three, tmp_path: Path) -> None:
    unknown, nan, outside = captions(7), captions(7), captions(7)
    unknown[2, 0] = 5000
    nan[5, 2] = 7
    outside[6, 4] = 2**40
    messages = {}
    for pool in (
        three.pool,
        open_pool(toy_reward.toy(tmp_path), RewardConfig(actors=0), at(""), print),
    ):
        for packed, kind in ((unknown, ValueError), (nan, ValueError), (outside, IndexError)):
            pending = pool.submit(packed, references(packed))
            with pytest.raises(kind) as raised:
                pending.result()
            assert type(raised.value) is kind
            messages.setdefault(str(raised.value), []).append(pool)
        with pytest.raises(ValueError, match=r"float64 \(3,\); expected int64 \(N, 1 \+ L\)"):
            pool.submit(np.zeros(3), references(captions(1)))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"references are float64 \(3,\); expected int64"):
            pool.submit(captions(1), np.zeros(3))  # type: ignore[arg-type]
    assert len(messages) == 3
    first, second, _ = messages
    assert first == "image 5000: no references; the last is 904"
    assert second.startswith(f"image {nan[5, 0]}: the reward of a caption is nan;")
    assert not any("\n" in line for line in messages)
    assert not three.logged
    compare(three.pool)


def test_a_killed_actor_is_replaced_during_a_call(three: Three) -> None:
    packed = slow(6)
    pending = three.pool.submit(packed, references(packed))
    os.kill(three.busy()[1], signal.SIGKILL)
    assert pending.result().tobytes() == in_process(packed, three.folder).tobytes()
    (line,) = three.logged
    assert line.startswith("reward actor ")
    assert line.endswith(
        " of 3 is lost: its worker process has died; its captions are scored again, and a "
        "replacement starts"
    )
    compare(three.pool)


def test_all_actors_are_replaced_during_a_call(three: Three) -> None:
    packed = slow(6)
    pending, queued = (
        three.pool.submit(packed, references(packed)),
        three.pool.submit(captions(5), references(captions(5))),
    )
    for pid in three.busy():
        os.kill(pid, signal.SIGKILL)
    assert pending.result().tobytes() == in_process(packed, three.folder).tobytes()
    assert queued.result().tobytes() == in_process(captions(5)).tobytes()
    assert sorted(line[:19] for line in three.logged) == [
        f"reward actor {n} of 3" for n in (1, 2, 3)
    ]


def test_a_lost_node_does_not_change_the_rewards(
    cluster: Any, three: Three, tmp_path: Path
) -> None:
    assert three.pool  # it leaves one CPU on the head node
    node = cluster.add_node(num_cpus=1, object_store_memory=2**27)
    logged: list[str] = []
    rewards = RewardConfig(actors=2)
    with open_pool(toy_reward.toy(tmp_path), rewards, at(cluster.address), logged.append) as pool:
        compare(pool)
        packed = slow(6)
        pending = pool.submit(packed, references(packed))
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        cluster.remove_node(node, allow_graceful=False)
        assert pending.result().tobytes() == in_process(packed, tmp_path).tobytes()
        # There is no CPU for a replacement; the pool works without it.
        compare(pool)
    (line,) = logged
    assert line.startswith("reward actor ")
    assert " of 2 is lost: it" in line


def test_captions_that_crash_every_actor_raise_an_error(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    with open_pool(toy_reward.toy(tmp_path), RewardConfig(actors=1), at("auto"), print) as pool:
        compare(pool)
        packed = captions(3)
        packed[1, 1] = DEADLY
        pending, queued = (
            pool.submit(packed, references(packed)),
            pool.submit(captions(1), references(captions(1))),
        )
        with pytest.raises(PoolError, match="crashed 3 times on the same captions"):
            pending.result()
        with pytest.raises(PoolError, match="crashed 3 times"):
            queued.result()


def test_too_few_cpus_are_reported(cluster: Any, tmp_path: Path) -> None:
    rewards = RewardConfig(actors=2, cpus=4)
    with pytest.raises(PoolError) as raised:
        open_pool(toy_reward.toy(tmp_path), rewards, at(cluster.address, 10), print)
    assert str(raised.value).endswith(
        "of 2 reward actors with 4 CPUs each were placed within 10 s; free CPUs, or lower "
        "reward.actors or reward.cpus"
    )
