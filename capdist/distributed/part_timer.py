"""Measures the parts of a training step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class PartTimer:
    """The seconds of each part of a step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, part: str, device: torch.device | None = None) -> Iterator[None]:
        """Add the seconds of a part; a GPU that is given is synchronised first.

        Without one, they are the host's seconds: a GPU may still work on the part.
        """
        started = time.perf_counter()
        yield
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        spent = time.perf_counter() - started
        self.seconds[part] = self.seconds.get(part, 0.0) + spent
