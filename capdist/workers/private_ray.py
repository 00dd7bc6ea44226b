"""A private Ray: what it is started with, how other drivers of its node join it, and its end.

Ray ends with the driver that started it. A driver that joins holds a lock in the folder of that
Ray, and the first one waits for the lock before it exits. The kernel releases the lock of a process
that is killed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RayNeeds:
    """What the actors of one or several drivers need of a private Ray.

    Args:
        cpus: that the actors reserve.
        memory: bytes of shared memory.
        cores: that the drivers' parents may run on.
    """

    cpus: float
    memory: int
    cores: frozenset[int]

    @classmethod
    def here(cls, cpus: float, payload_bytes: int) -> RayNeeds:
        """Of one driver whose parent is this process."""
        return cls(cpus, 2 * payload_bytes + 2**27, frozenset(os.sched_getaffinity(0)))

    @classmethod
    def total(cls, parts: Sequence[RayNeeds]) -> RayNeeds:
        cores = frozenset[int]().union(*(part.cores for part in parts))
        return cls(sum(part.cpus for part in parts), sum(part.memory for part in parts), cores)


@dataclass(frozen=True)
class PrivateRay:
    """A running private Ray: its address, the token that grants access, and its folder."""

    address: str
    token: str
    folder: str


def start_options(needs: RayNeeds, folder: str, *, gpus: bool) -> dict[str, Any]:
    """Arguments of ``ray.init`` to start a private Ray, once this process is prepared for it."""
    with suppress(OSError):  # not all of them, if a scheduler divides the cores among its tasks
        os.sched_setaffinity(0, needs.cores)
    os.environ |= environment(secrets.token_hex(32))
    return {
        "address": "local",
        # At least what the actors ask for: Ray would never place them on fewer cores.
        "num_cpus": ceil(needs.cpus),
        "num_gpus": None if gpus else 0,
        "include_dashboard": False,
        "object_store_memory": needs.memory,
        "_temp_dir": folder,
    }


def join_options(ray: PrivateRay) -> dict[str, Any]:
    """Arguments of ``ray.init`` to join a private Ray, which waits for the end of this process."""
    fcntl.flock(_lock_file(ray.folder), fcntl.LOCK_SH)
    os.environ |= environment(ray.token)
    return {"address": ray.address}


def wait_for_joined(folder: str) -> None:
    """Wait until every driver that joined the Ray of a folder has ended."""
    fcntl.flock(_lock_file(folder), fcntl.LOCK_EX)


def _lock_file(folder: str) -> int:
    """A descriptor that stays open until the process ends."""
    return os.open(Path(folder, "joined.lock"), os.O_WRONLY | os.O_CREAT)


def environment(token: str) -> dict[str, str]:
    """Environment variables of a private Ray: loopback only, and a token of its own."""
    return {
        "RAY_AUTH_MODE": "token",
        # Not Ray's own, in ~/.ray: runs that start at once would overwrite each other's.
        "RAY_AUTH_TOKEN": token,
        # Ray's own switch from the node's address to loopback, named after where it is the default.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
