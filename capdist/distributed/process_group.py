"""The ranks of a run: their rendezvous and their collective operations."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from capdist.data.rank_plan import Ranks
from capdist.distributed.heartbeat import Heartbeat
from capdist.errors import CapdistError, OtherRankError

T = TypeVar("T")

#: How long a rank may compute while the others wait; silent ranks are the heartbeat's business.
ALONE = timedelta(minutes=30)


#: What a launcher would set for a rank alone.
_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


class RendezvousError(CapdistError):
    """The ranks do not find each other, or their GPUs."""


@dataclass(frozen=True)
class ProcessGroup:
    """One process of a run: its ranks and its device; ``alone`` without a launcher."""

    ranks: Ranks
    device: torch.device
    heartbeat: Heartbeat | None = None
    alone: bool = False

    @classmethod
    def join(cls, timeout_s: float) -> ProcessGroup:
        """Meet the other ranks, as the launcher's environment says; one rank without a launcher.

        From then on the process exits if another rank is silent for ``timeout_s``.

        Raises:
            RendezvousError: if that fails.
        """
        launched = "RANK" in os.environ
        if launched:
            _check_launcher()
        else:
            os.environ.update(_ALONE, MASTER_PORT=str(_free_port()))
        local = int(os.environ["LOCAL_RANK"])
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda and local >= torch.cuda.device_count():
            raise RendezvousError(
                f"rank {os.environ['RANK']} is number {local} on its node, which has "
                f"{torch.cuda.device_count()} GPU(s); start as many ranks on a node as it has GPUs"
            )
        if cuda:
            torch.cuda.set_device(device)
        try:
            # A rank alone needs no port, which a run that starts at the same time could take.
            alone_here = (distributed.HashStore(), 0, 1)  # type: ignore[attr-defined]
            met: tuple[Any, int, int] = next(rendezvous("env://")) if launched else alone_here
            store, rank, world = met
            backend = "nccl" if cuda else "gloo"
            distributed.init_process_group(
                backend, timeout=ALONE, store=store, rank=rank, world_size=world
            )
            ranks = Ranks(rank, world)
            # A connection of its own: the group's may wait in the store for long.
            heartbeat = Heartbeat(store.clone(), ranks, timeout_s) if world > 1 else None
        except RuntimeError as error:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise RendezvousError(
                f"rank {os.environ['RANK']} can't reach the other ranks at {place}: "
                f"{str(error).splitlines()[0]}. Check that this node can connect to that one and "
                "that the port is free; choose another with MASTER_PORT, or with --master_port of "
                "the deepspeed launcher; a new SLURM job gets another one"
            ) from error
        return cls(ranks, device, heartbeat, alone=not launched)

    @property
    def first(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.ranks.rank == 0

    def sum(self, *values: float | Tensor) -> list[float]:
        """The sum of each number over all ranks, in one message; none if there is one rank.

        Scalars on the device are read together with the sums.
        """
        numbers = [torch.as_tensor(v, dtype=torch.float64, device=self.device) for v in values]
        totals = torch.stack(numbers).detach()
        if self.ranks.world > 1:
            distributed.all_reduce(totals)
        return [float(total) for total in totals.tolist()]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank."""
        values: list[Any] = [None] * self.ranks.world
        distributed.all_gather_object(values, value)
        return values

    def agree(self, check: Callable[[], T]) -> T:
        """The result of ``check``, if it succeeds on all ranks, which call it together.

        Raises:
            CapdistError, OSError: what ``check`` raised, on the first rank where it did.
            OtherRankError: on the others.
        """
        reason: CapdistError | OSError | None = None
        try:
            result = check()
        except (CapdistError, OSError) as error:
            reason = error
        failed = [rank for rank, no in enumerate(self.gather(reason is not None)) if no]
        if not failed:
            return result
        if reason is not None and failed[0] == self.ranks.rank:
            raise reason
        raise OtherRankError(f"rank {failed[0]} reports the reason")

    def barrier(self) -> None:
        distributed.barrier()

    def leave(self) -> None:
        """Stop the heartbeat and destroy the process group.

        What `join` set in the environment goes: a child process is not a rank of this group.
        """
        if self.heartbeat:
            self.heartbeat.stop()
        distributed.destroy_process_group()
        if self.alone:
            for name in (*_ALONE, "MASTER_PORT"):
                os.environ.pop(name, None)


def lost_rank(error: RuntimeError) -> bool:
    """Whether a collective failed because a rank exited, by the words of Gloo."""
    return "closed by peer" in str(error) or "reset by peer" in str(error)


def _check_launcher() -> None:
    """Refuse an environment that no launcher has set.

    Raises:
        RendezvousError: naming the variables.
    """
    numbers = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
    missing = [name for name in (*numbers, "MASTER_ADDR") if not os.environ.get(name)]
    if missing:
        raise RendezvousError(
            f"RANK is set, but not {', '.join(missing)}; start the command with a launcher "
            "(deepspeed, torchrun), or unset RANK for one process"
        )
    for name in numbers:
        if not os.environ[name].isdecimal():
            raise RendezvousError(f"{name}={os.environ[name]!r}: expected a whole number")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
