"""A child process that is Ray's driver, and the pipe to it.

What Ray does to its driver it thus does not do to whoever asks: print, wait for minutes, take over
signal handlers, start threads that forked readers do not survive, and end the process when the
cluster's head is gone.
"""

from __future__ import annotations

import os
import pickle
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import Any

from capdist.config.run_config import RayConfig
from capdist.workers.reward_pool import PoolError

#: Seconds that a Ray of one's own may take to start; a running one has ``ray.timeout_s``.
START_S = 60.0
#: Seconds that the driver has to end by itself before it is killed.
GRACE_S = 10.0

#: What a driver does once it is connected. It gets the job, its pickled load (to be closed when
#: it is read), the calls, and what sends an answer.
Serve = Callable[["DriverTask", BytesIO, "SimpleQueue[Any]", Callable[[str, Any], None]], None]


class RayLostError(PoolError):
    """Ray is not there, or no longer."""


class WorkerCrashError(PoolError):
    """Whoever does it dies."""


@dataclass(frozen=True)
class ActorRequest:
    """Actors, with how many CPUs each, and whether they may have a GPU each.

    ``key`` names what asks for them, and ``instead`` what to do without Ray, in messages.
    """

    actors: int
    cpus: float
    gpus: bool
    key: str
    instead: str
    serve: Serve


@dataclass(frozen=True)
class DriverTask:
    """What the driver is told first; ``folder`` is for a Ray of its own."""

    wish: ActorRequest
    address: str
    timeout_s: float
    start_s: float
    folder: str


class RayChild:
    """The driver, from its start to `end`.

    Args:
        wish: for actors.
        cluster: where.
        load: what the actors hold, pickled on its way.
        log: is told whatever the driver says.

    Raises:
        PoolError: if there is no Ray, or it does not answer in time.
    """

    def __init__(
        self, wish: ActorRequest, cluster: RayConfig, load: Any, log: Callable[[str], None]
    ) -> None:
        self._log, self._address, self.failure = log, cluster.address, ""
        limit_s = cluster.timeout_s
        self.start_s = max(START_S, limit_s) if cluster.address == "local" else limit_s
        # The paths of Ray's sockets have room for 107 bytes, and a job's TMPDIR may be long.
        self._folder = tempfile.mkdtemp(prefix="capdist-ray-", dir="/tmp")
        self._pipe, theirs = Pipe()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  # closed by end()
        with theirs:
            self._driver = subprocess.Popen(
                [sys.executable, "-m", "capdist.workers.ray_driver", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                start_new_session=True,  # Ctrl-C is for the parent, which then ends in its own way
            )
        try:
            self.send(DriverTask(wish, cluster.address, limit_s, self.start_s, self._folder))
            with suppress(OSError):  # not by send(), which shares tensors' memory with the driver
                self._pipe.send_bytes(pickle.dumps(load))
            self.answer(self.start_s)
        except BaseException:
            self.end()
            raise

    def send(self, message: Any) -> None:
        """Say something to the driver."""
        with suppress(OSError):  # the driver has ended; its answer will be why
            self._pipe.send(message)

    def answer(self, timeout_s: float | None) -> tuple[str, Any]:
        """The driver's next message that is no line for the log.

        Raises:
            PoolError: if it is that the driver has failed, or none comes in time.
            RayLostError: if it is that Ray is lost.
        """
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
                self.failure = value
                raise PoolError(value)
            if kind != "log":
                return kind, value
            self._log(value)

    def end(self) -> None:
        """End the driver and what it has started."""
        if self._pipe.closed:
            return
        self.send(None)
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._driver.wait(GRACE_S)
        with suppress(ProcessLookupError):  # Ray's processes, where the driver did not end them
            os.killpg(self._driver.pid, signal.SIGKILL)
        self._driver.wait()
        self._printed.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _silent(self, timeout_s: float) -> PoolError:
        what = f"ray.address {self._address}: no Ray answered within {timeout_s:g} s; "
        if self._address == "local":
            return PoolError(f"{what}see whether the machine is overloaded, or /tmp is full")
        return PoolError(
            f"{what}start one there (ray start --head), correct the address, or raise ray.timeout_s"
        )

    def _gone(self) -> PoolError:
        if self.failure:
            return PoolError(self.failure)
        self._printed.seek(0)
        said = [line for line in self._printed.read().decode(errors="replace").split("\n") if line]
        return RayLostError(
            f"ray.address {self._address}: Ray is gone; the last that it said: "
            f"{said[-1][:300] if said else 'nothing'}"
        )


def own_ray() -> dict[str, str]:
    """The environment of a Ray of one's own: on loopback, with a password that nobody else has."""
    return {
        "RAY_AUTH_MODE": "token",
        # Not Ray's, in ~/.ray: ranks that start at once would overwrite each other's.
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray's own switch from the node's address to loopback, named after where it is the default.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def raised(value: tuple[Exception, str]) -> Exception:
    """What an actor raised, and where in it; the driver's answer of that kind."""
    cause, trace = value
    cause.__cause__ = RuntimeError(trace)
    return cause


def one_line(error: Exception) -> str:
    """What went wrong, for the end of a message; Ray's own run over many lines."""
    text = f"{type(error).__name__}: {error}".partition("\ntraceback")[0]
    return " ".join(text.split())[:400]


def death(error: Exception) -> str:
    """Why an actor is gone, in Ray's words where it has some."""
    why = re.search(r"because (its [^.]+)", str(error))
    return why[1] if why else "it cannot be reached"
