"""A private Ray is isolated and leaves nothing behind; its failures are reported in one line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import numpy as np
import psutil
import pytest

from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.data.rank_plan import Ranks
from capdist.errors import OtherRankError
from capdist.workers import driver_process
from capdist.workers.base import PoolError, RewardPool
from capdist.workers.reward_pool import open_pool
from tests.support import toy_reward
from tests.support.pools import FileGroup, at, compare, in_process, slow, until
from tests.support.toy_reward import captions

Address = IPv4Address | IPv6Address


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_without_ray_is_reported(
    listens: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(PoolError) as raised:
            open_pool(toy_reward.toy(tmp_path), RewardConfig(), at(address, 3), print)
    assert str(raised.value) == (
        f"ray.address {address}: no Ray answered within 3 s; start one there (ray start --head), "
        "correct the address, or raise ray.timeout_s"
    )
    assert capfd.readouterr() == ("", "")


def test_missing_ray_is_reported_and_releases_the_other_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'ray'\")"
    (tmp_path / "ray.py").write_text(missing)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def rank(number: int) -> RewardPool:
        group = FileGroup(tmp_path, Ranks(number, 2))
        return open_pool(toy_reward.toy(tmp_path), RewardConfig(), RayConfig(), print, group)

    with ThreadPoolExecutor() as threads:
        ranks = [threads.submit(rank, number) for number in range(2)]
    with pytest.raises(OtherRankError):
        ranks[1].result()
    with pytest.raises(PoolError) as raised:
        ranks[0].result()
    assert str(raised.value) == (
        "reward.actors 1 needs Ray (No module named 'ray'); pip install -e '.[train]', or set "
        "reward.actors to 0 to score in the trainer's own process"
    )


def test_a_crash_of_ray_while_it_starts_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "RAY_gcs_server_request_timeout_seconds", "no number"
    )  # makes Ray itself crash
    with pytest.raises(PoolError, match=r"^ray.address local: Ray exited; .*$"):
        open_pool(toy_reward.toy(tmp_path), RewardConfig(), RayConfig(), print)


def test_a_slow_start_of_ray_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_process, "START_S", 2.0)
    with pytest.raises(PoolError) as raised:
        open_pool(toy_reward.toy(tmp_path), RewardConfig(), at("local", 1), print)
    assert str(raised.value) == (
        "ray.address local: no Ray answered within 2 s; check whether the machine is overloaded or "
        "/tmp is full"
    )


def test_an_invalid_address_is_reported(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"^ray.address nonsense: Ray refused: .*$"):
        open_pool(toy_reward.toy(tmp_path), RewardConfig(), at("nonsense"), print)


#: A rank of a trainer to be killed while it waits for a reward.
RANKS = 3
TRAINER = """
import sys
from pathlib import Path
import numpy as np
from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.data.rank_plan import Ranks
from capdist.workers.reward_pool import open_pool
from tests.support import toy_reward
from tests.support.pools import FileGroup, compare, slow

folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
group = FileGroup(folder / "group", Ranks(rank, world))
pool = open_pool(toy_reward.toy(folder / str(rank)), RewardConfig(), RayConfig(), print, group)
assert "ray" not in sys.modules
compare(pool)
pool.submit(slow(500), toy_reward.references(slow(500))).result()
"""


def processes(session: int) -> list[int]:
    """The processes of a session, without zombies."""
    members = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            _, _, rest = (path / "stat").read_text().rpartition(")")
            state, _, _, its_session, *_ = rest.split()
            if int(its_session) == session and state != "Z":
                members.append(int(path.name))
    return members


def folder(session: int) -> Path:
    """The folder of a private Ray."""
    texts = (Path(f"/proc/{pid}/cmdline").read_text() for pid in processes(session))
    (name,) = {name for text in texts for name in re.findall(r"/tmp/capdist-ray-\w+", text)}
    return Path(name)


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def listening(session: int) -> set[Address]:
    """The addresses that the processes of a session listen on."""
    sockets = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                sockets[f"socket:[{fields[9]}]"] = fields[1].partition(":")[0]
    addresses = set()
    for pid in processes(session):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                addresses.add(sockets.get(os.readlink(handle), ""))
    return {decoded(address) for address in addresses - {""}}


def decoded(address: str) -> Address:
    """Parse an address as the kernel writes it, in 32-bit words of the machine's byte order."""
    words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    parsed = ip_address(b"".join(words))
    return getattr(parsed, "ipv4_mapped", None) or parsed


def test_two_private_rays_are_isolated_and_end_with_their_ranks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # neither of the two may use it
    job = '{"runtime_env": {"working_dir": "gcs://_ray_pkg_of_the_job.zip"}}'
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", job)  # as set by `ray job submit`
    long = tmp_path / ("x" * 100)  # too long for the path of a socket
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    scored = [tmp_path / str(rank) for rank in range(RANKS)]
    for path in (*scored, tmp_path / "group"):
        path.mkdir()
    with ExitStack() as stack:
        trainers = []
        for rank in range(RANKS):
            arguments = [str(tmp_path), str(rank), str(RANKS)]
            trainer = subprocess.Popen([sys.executable, "-c", TRAINER, *arguments])
            trainers.append(stack.enter_context(trainer))
            stack.callback(trainer.kill)
        rewards = RewardConfig(cpus=1.5)
        logged: list[str] = []
        with open_pool(toy_reward.toy(tmp_path), rewards, at("local", 5), logged.append) as pool:
            ask = np.array([[toy_reward.PID, 0]])
            mine = int(pool.submit(ask, toy_reward.references(ask)).result()[0])
            until(lambda: all(any(path.iterdir()) for path in scored))
            actors = [int(next(path.iterdir()).name) for path in scored]
            sessions = [os.getsid(mine), os.getsid(actors[0])]
            assert len({*sessions, os.getsid(0)}) == 2 + 1
            assert {os.getsid(actor) for actor in actors} == {sessions[1]}
            ours, theirs = map(folder, sessions)
            for session in sessions:
                assert {address.is_loopback for address in listening(session)} == {True}
                assert [command(pid) for pid in processes(session)].count("gcs_server") == 1
            drivers = [psutil.Process(each.pid).children()[0].pid for each in trainers]
            trainers[2].kill()
            until(lambda: not processes(drivers[2]))
            until(lambda: actors[2] not in processes(sessions[1]))
            trainers[0].kill()
            until(lambda: actors[0] not in processes(sessions[1]))
            assert actors[1] in processes(sessions[1])
            trainers[1].kill()
            until(lambda: not any(map(processes, (*drivers, *sessions[1:]))))
            assert not theirs.exists()
            compare(pool)
            packed = slow(20)  # takes longer than Ray survives without its head node
            pending, queued = (
                pool.submit(packed, toy_reward.references(packed)),
                pool.submit(captions(5), toy_reward.references(captions(5))),
            )
            until(lambda: (tmp_path / str(mine)).exists())
            (head,) = (pid for pid in processes(sessions[0]) if command(pid) == "gcs_server")
            os.kill(head, signal.SIGKILL)
            assert pending.result().tobytes() == in_process(packed, tmp_path).tobytes()
            assert queued.result().tobytes() == in_process(captions(5)).tobytes()
            until(lambda: not processes(sessions[0]))
            assert not ours.exists()
            compare(pool)
        (line,) = logged
        assert line.startswith("ray.address local: Ray exited; ")
        assert line.endswith("; the trainer scores the rewards itself from now on")
        with pytest.raises(PoolError, match="closed"):
            pool.submit(ask, toy_reward.references(ask)).result()
    assert capfd.readouterr() == ("", "")
