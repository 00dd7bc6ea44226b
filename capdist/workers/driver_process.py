"""A child process that is the Ray driver, and the pipe to it.

Ray changes the process of its driver: it prints, waits for minutes, takes over signal handlers,
starts threads that forked data loaders do not survive, and exits when the head node is lost. A
child process keeps all of that away from the caller.
"""

from __future__ import annotations

import os
import re
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
from capdist.workers.base import PoolError
from capdist.workers.private_ray import PrivateRay, RayNeeds

#: Seconds for a private Ray to start; a running cluster has ``ray.timeout_s``.
START_S = 60.0
#: Seconds for the driver to exit before it is killed.
GRACE_S = 10.0

#: What the driver runs once it is connected. Arguments: the task, its pickled payload (to be closed
#: after reading), the queue of calls, and a function that sends an answer.
Serve = Callable[["DriverTask", BytesIO, "SimpleQueue[Any]", Callable[[str, Any], None]], None]


class RayLostError(PoolError):
    """Ray is not available, or no longer."""


class WorkerCrashError(PoolError):
    """The same work crashes one worker after the other."""


@dataclass(frozen=True)
class ActorRequest:
    """A number of actors, the CPUs of each, and whether each may use a GPU.

    In messages, ``key`` names the option that asks for them, and ``instead`` says what to do
    without Ray. ``serve`` is run by the driver.
    """

    actors: int
    cpus: float
    gpus: bool
    key: str
    instead: str
    serve: Serve


@dataclass(frozen=True)
class DriverTask:
    """The first message to the driver.

    ``place`` is what a private Ray must have, or the private Ray to join; None for another cluster.
    A private Ray that the driver starts keeps its files in ``folder``.
    """

    request: ActorRequest
    address: str
    timeout_s: float
    start_s: float
    folder: str
    place: RayNeeds | PrivateRay | None


class DriverProcess:
    """The Ray driver, from its start to `stop`.

    ``ray`` is the private Ray that it has started, None if it uses another one.

    Args:
        request: the actors to start.
        cluster: which Ray runs them.
        payload: what the actors need, pickled for the driver by `pickle`.
        log: receives the lines that the driver logs.
        place: what a private Ray must have, or the one to join; None for another cluster.

    Raises:
        PoolError: if Ray is not available, or does not answer in time.
    """

    def __init__(
        self,
        request: ActorRequest,
        cluster: RayConfig,
        payload: bytes,
        log: Callable[[str], None],
        place: RayNeeds | PrivateRay | None = None,
    ) -> None:
        self._log, self._address, self.failure = log, cluster.address, ""
        limit_s = cluster.timeout_s
        self.start_s = max(START_S, limit_s) if cluster.address == "local" else limit_s
        # Paths of Ray's sockets are limited to 107 bytes, and TMPDIR may be long.
        self._folder = tempfile.mkdtemp(prefix="capdist-ray-", dir="/tmp")
        self._pipe, child_end = Pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "capdist.workers.ray_driver", str(child_end.fileno())],
                pass_fds=[child_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,  # Ctrl-C reaches only the parent, which stops the child
            )
        try:
            task = DriverTask(request, cluster.address, limit_s, self.start_s, self._folder, place)
            self.send(task)
            with suppress(OSError):  # not by send(), which would put tensors into shared memory
                self._pipe.send_bytes(payload)
            self.ray: PrivateRay | None = self.answer(self.start_s)[1]
        except BaseException:
            self.stop()
            raise

    def send(self, message: Any) -> None:
        """Send a message; if the driver has exited, `answer` says why."""
        with suppress(OSError):
            self._pipe.send(message)

    def answer(self, timeout_s: float | None) -> tuple[str, Any]:
        """The driver's next answer; log lines on the way go to ``log``.

        Raises:
            PoolError: if the driver failed, or does not answer in time.
            RayLostError: if Ray is lost.
        """
        while True:
            try:
                if timeout_s is not None and not self._pipe.poll(timeout_s):
                    self._process.kill()
                    raise self._timeout_error(timeout_s)
                kind, value = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise self._exit_error() from error
            if kind == "lost":
                raise RayLostError(value)
            if kind == "failed":
                self.failure = value
                raise PoolError(value)
            if kind != "log":
                return kind, value
            self._log(value)

    def stop(self) -> None:
        """Stop the driver and the processes that it started."""
        if self._pipe.closed:
            return
        self.send(None)
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        with suppress(ProcessLookupError):  # Ray's processes, if the driver did not stop them
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _timeout_error(self, timeout_s: float) -> PoolError:
        what = f"ray.address {self._address}: no Ray answered within {timeout_s:g} s; "
        if self._address == "local":
            return PoolError(f"{what}check whether the machine is overloaded or /tmp is full")
        return PoolError(
            f"{what}start one there (ray start --head), correct the address, or raise ray.timeout_s"
        )

    def _exit_error(self) -> PoolError:
        if self.failure:
            return PoolError(self.failure)
        self._output.seek(0)
        text = self._output.read().decode(errors="replace")
        self.stop()
        lines = [line for line in text.split("\n") if line]
        return RayLostError(
            f"ray.address {self._address}: Ray exited; its last output: "
            f"{lines[-1][:300] if lines else 'none'}"
        )


def actor_error(value: tuple[Exception, str]) -> Exception:
    """The exception of a "raised" answer, its traceback in the actor attached as the cause."""
    cause, trace = value
    cause.__cause__ = RuntimeError(trace)
    return cause


def one_line(error: Exception) -> str:
    """An exception for the end of a message; Ray's own have many lines."""
    text = f"{type(error).__name__}: {error}".partition("\ntraceback")[0]
    return " ".join(text.split())[:400]


def crash_reason(error: Exception) -> str:
    """Why an actor is lost, in Ray's words if it gives a reason."""
    why = re.search(r"because (its [^.]+)", str(error))
    return why[1] if why else "it cannot be reached"
