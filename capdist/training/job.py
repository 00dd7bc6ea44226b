"""The processes of a run and what they tell each other."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed

from capdist.data.stream import Ranks

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One process of a run: its ranks and its device."""

    ranks: Ranks
    device: torch.device

    @classmethod
    def join(cls) -> Job:
        """Meet the other ranks, as the launcher's environment says; alone without a launcher."""
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
        if cuda:
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if cuda else "gloo")
        return cls(Ranks(distributed.get_rank(), distributed.get_world_size()), device)

    @property
    def first(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.ranks.rank == 0

    def sum(self, value: float) -> float:
        """The sum over all ranks."""
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return float(total)

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank."""
        values: list[Any] = [None] * self.ranks.world
        distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for the others."""
        distributed.barrier()

    def leave(self) -> None:
        """Say good-bye to the others."""
        distributed.destroy_process_group()


def end_process(status: int) -> NoReturn:
    """End a process that was part of a `Job`, now.

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
