"""The trainer's side of a pool of Ray actors; Ray's driver is a child process, `ray_driver`.

What Ray does to its driver it thus does not do to the trainer: print, wait for minutes, take over
signal handlers, start threads that forked readers do not survive, and end the process when the
cluster's head is gone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Any

from capdist.config import RayConfig, RewardConfig
from capdist.workers.reward_pool import Packed, Pending, PoolError, Reward, RewardPool

#: Seconds that a Ray of one's own may take to start; a running one has ``ray.timeout_s``.
START_S = 60.0
#: Seconds that the driver has to end by itself before it is killed.
GRACE_S = 10.0


@dataclass(frozen=True)
class Job:
    """What the driver is told first; ``folder`` is for a Ray of its own."""

    actors: int
    cpus: float
    address: str
    timeout_s: float
    start_s: float
    folder: str


class RayLostError(PoolError):
    """Ray is not there, or no longer."""


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
        self._reward, self._log = reward, log
        self._address, self._failure, self._lost = cluster.address, "", False
        self._waiting: deque[tuple[Pending, Packed]] = deque()
        # The paths of Ray's sockets have room for 107 bytes, and a job's TMPDIR may be long.
        self._folder = tempfile.mkdtemp(prefix="capdist-ray-", dir="/tmp")
        self._pipe, theirs = Pipe()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        with theirs:
            self._driver = subprocess.Popen(
                [sys.executable, "-m", "capdist.workers.ray_driver", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                start_new_session=True,  # Ctrl-C is for the trainer, which then saves its state
            )
        where, limit_s = cluster.address, cluster.timeout_s
        start_s = max(START_S, limit_s) if where == "local" else limit_s
        try:
            self._send(Job(rewards.actors, rewards.cpus, where, limit_s, start_s, self._folder))
            self._send(reward)
            self._answer(start_s)
            self._answer(start_s + GRACE_S)  # to load the reward; the driver itself keeps the limit
        except BaseException:
            self.close()
            raise

    def _submit(self, packed: Packed) -> Pending:
        pending = Pending(self._settle)
        if self._lost:
            pending.compute(self._reward, packed)
        else:
            self._send(packed)
            self._waiting.append((pending, packed))
        return pending

    def close(self) -> None:
        """End the actors, and Ray where it is the pool's own; what is pending is given up."""
        self._lost, self._failure = False, self._failure or "the reward pool is closed"
        if not self._pipe.closed:
            self._end()

    def _end(self) -> None:
        """End the driver and what it has started."""
        self._send(None)
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._driver.wait(GRACE_S)
        with suppress(ProcessLookupError):  # Ray's processes, where the driver did not end them
            os.killpg(self._driver.pid, signal.SIGKILL)
        self._driver.wait()
        self._printed.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _settle(self) -> None:
        """Receive the answer to the oldest call, or score all that wait if there will be none."""
        try:
            kind, value = self._answer(None)
        except RayLostError as error:
            self._log(f"{error}; the trainer scores the rewards itself from here on")
            self._lost = True
            self._end()
            while self._waiting:
                pending, packed = self._waiting.popleft()
                pending.compute(self._reward, packed)
            return
        future = self._waiting.popleft()[0].future
        if kind == "scores":
            future.set_result(value)
        else:
            cause, trace = value
            cause.__cause__ = RuntimeError(trace)  # where in the actor it was
            future.set_exception(cause)

    def _send(self, message: Any) -> None:
        with suppress(OSError):  # the driver has ended; its answer will be why
            self._pipe.send(message)

    def _answer(self, timeout_s: float | None) -> tuple[str, Any]:
        """The driver's next message that is no line for the log."""
        while True:
            try:
                if timeout_s is not None and not self._pipe.poll(timeout_s):
                    self._driver.kill()
                    raise self._silent(timeout_s)
                kind, value = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise self._gone() from error
            if kind == "lost":
                raise RayLostError(value)
            if kind == "failed":
                self._failure = value
                raise PoolError(value)
            if kind != "log":
                return kind, value
            self._log(value)

    def _silent(self, timeout_s: float) -> PoolError:
        what = f"ray.address {self._address}: no Ray answered within {timeout_s:g} s; "
        if self._address == "local":
            return PoolError(f"{what}see whether the machine is overloaded, or /tmp is full")
        return PoolError(
            f"{what}start one there (ray start --head), correct the address, or raise ray.timeout_s"
        )

    def _gone(self) -> PoolError:
        if self._failure:
            return PoolError(self._failure)
        self._printed.seek(0)
        said = [line for line in self._printed.read().decode(errors="replace").split("\n") if line]
        return RayLostError(
            f"ray.address {self._address}: Ray is gone; the last that it said: "
            f"{said[-1][:300] if said else 'nothing'}"
        )
