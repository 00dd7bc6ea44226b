"""The processes of a run and what they tell each other."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from capdist.config.base import ConfigError
from capdist.data.rank_plan import Ranks
from capdist.distributed.heartbeat import Heartbeat
from capdist.errors import CapdistError
from capdist.metrics.coco import ScoreError
from capdist.workers.base import PoolError
from shards.schema import ShardError

T = TypeVar("T")

#: How long a rank may work while the others wait for it; one that is silent is `watch`'s business.
ALONE = timedelta(minutes=30)


class RendezvousError(CapdistError):
    """The ranks do not find each other, or their GPUs; one line that says where and what to do."""


class OtherRankError(CapdistError):
    """Another rank can't go on, and says why."""


@dataclass(frozen=True)
class ProcessGroup:
    """One process of a run: its ranks and its device."""

    ranks: Ranks
    device: torch.device
    watch: Heartbeat | None = None

    @classmethod
    def join(cls, timeout_s: float) -> ProcessGroup:
        """Meet the other ranks, as the launcher's environment says; alone without a launcher.

        From then on the process ends where another rank is silent for ``timeout_s``.

        Raises:
            RendezvousError: if that fails.
        """
        alone = {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
        if "RANK" not in os.environ:
            os.environ.update(alone)
        local = int(os.environ["LOCAL_RANK"])
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda and local >= torch.cuda.device_count():
            raise RendezvousError(
                f"rank {os.environ['RANK']}: its node shows it {torch.cuda.device_count()} GPU(s), "
                f"but it is number {local} there; start as many ranks on a node as it has GPUs"
            )
        if cuda:
            torch.cuda.set_device(device)
        try:
            store, rank, world = next(rendezvous("env://"))
            backend = "nccl" if cuda else "gloo"
            distributed.init_process_group(
                backend, timeout=ALONE, store=store, rank=rank, world_size=world
            )
            ranks = Ranks(rank, world)
            # A connection of its own: the group's may wait in the store for long.
            watch = Heartbeat(store.clone(), ranks, timeout_s) if world > 1 else None
        except RuntimeError as error:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise RendezvousError(
                f"rank {os.environ['RANK']} does not meet the others at {place}: "
                f"{str(error).splitlines()[0]}; is the port (MASTER_PORT) another program's, or "
                "can't this node reach that one? A new SLURM job gets another port"
            ) from error
        return cls(ranks, device, watch)

    @property
    def first(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.ranks.rank == 0

    def sum(self, *values: float) -> list[float]:
        """The sum of each value over all ranks."""
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(totals)
        return [float(total) for total in totals]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank."""
        values: list[Any] = [None] * self.ranks.world
        distributed.all_gather_object(values, value)
        return values

    def agree(self, check: Callable[[], T]) -> T:
        """What ``check`` gives, if no rank refuses; all ranks call it together.

        Raises:
            ConfigError, ShardError, ScoreError, PoolError: the refusal, on the first rank that had
                one.
            OtherRankError: on the others.
        """
        refusal: Exception | None = None
        try:
            result = check()
        except (ConfigError, ShardError, ScoreError, PoolError) as error:
            refusal = error
        refused = [rank for rank, no in enumerate(self.gather(refusal is not None)) if no]
        if not refused:
            return result
        if refusal is not None and refused[0] == self.ranks.rank:
            raise refusal
        raise OtherRankError(f"rank {refused[0]} says why")

    def barrier(self) -> None:
        """Wait for the others."""
        distributed.barrier()

    def leave(self) -> None:
        """Say good-bye to the others."""
        if self.watch:
            self.watch.leave()
        distributed.destroy_process_group()


def lost_rank(error: RuntimeError) -> bool:
    """Whether ranks could not talk because one is gone, by the words of Gloo."""
    return "closed by peer" in str(error) or "reset by peer" in str(error)


def end_process(status: int) -> NoReturn:
    """End a process that was part of a `ProcessGroup`, now.

    Gloo's threads outlive the process group as long as anything refers to it, and DeepSpeed's
    parameters do. One that drops a tensor while Python is being torn down aborts the process, and
    a run that trained to its end would report failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
