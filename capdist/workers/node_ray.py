"""The Ray drivers of all ranks, which use one private Ray per node."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from capdist.config.run_config import RayConfig
from capdist.data.rank_plan import Ranks
from capdist.workers.driver_process import ActorRequest, DriverProcess
from capdist.workers.private_ray import PrivateRay, RayNeeds

T = TypeVar("T")


class Group(Protocol):
    """Ranks that open their pools together: a `capdist.distributed.process_group.ProcessGroup`."""

    @property
    def ranks(self) -> Ranks: ...
    def gather(self, value: T) -> list[T]: ...
    def agree(self, check: Callable[[], T]) -> T: ...


class OneRank:
    """A process that opens its pool alone."""

    ranks = Ranks()

    def gather(self, value: T) -> list[T]:
        return [value]

    def agree(self, check: Callable[[], T]) -> T:
        return check()


def open_driver(
    request: ActorRequest,
    cluster: RayConfig,
    payload: Any,
    log: Callable[[str], None],
    group: Group | None = None,
) -> DriverProcess:
    """The connected driver of this rank.

    With the address "local", the lowest rank of each node starts a private Ray with room for the
    actors and payloads of all its ranks, and the other ranks join it.

    Args:
        request: the actors to start.
        cluster: which Ray runs them.
        payload: what the actors need.
        log: receives the lines that the driver logs.
        group: the ranks, which all call this together; None: this process is alone.

    Raises:
        PoolError: if Ray is not available, or does not answer in time, on the first such rank.
        OtherRankError: on the others.
    """
    packed, group = pickle.dumps(payload), group or OneRank()
    with ExitStack() as started:

        def start(place: RayNeeds | PrivateRay | None = None) -> DriverProcess:
            driver = DriverProcess(request, cluster, packed, log, place)
            started.callback(driver.stop)
            return driver

        if cluster.address == "local":
            node, own = node_id(), RayNeeds.here(request.actors * request.cpus, len(packed))
            nodes, needs = zip(*group.gather((node, own)), strict=True)
            first = nodes.index(node)
            starts = first == group.ranks.rank
            total = RayNeeds.total(
                [n for other, n in zip(nodes, needs, strict=True) if other == node]
            )
            mine = group.agree(lambda: start(total) if starts else None)
            ray = group.gather(mine.ray if mine else None)[first]
            driver = group.agree(lambda: mine or start(ray))
        else:
            driver = group.agree(start)
        started.pop_all()
        return driver


def node_id() -> tuple[str, ...]:
    """Equal for processes that can join each other's private Ray.

    They have the same kernel, see the same files and processes, and have the same loopback.
    """
    marks = [socket.gethostname()]
    with suppress(OSError):  # only Linux has these
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        marks += [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid", "net")]
    return tuple(marks)
