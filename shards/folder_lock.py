"""One process at a time that writes into a folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from capdist.errors import CapdistError
from shards.atomic import write_text

#: The file whose lock it is; it stays.
LOCK = ".lock"
#: Says which process has the lock; a killed one leaves it.
OWNER = ".owner"


@contextmanager
def folder_lock(folder: Path, use: str, advice: str) -> Iterator[None]:
    """Keep other processes out of a folder while this one writes into it, however it ends.

    Args:
        folder: it must exist.
        use: what the process does, for the message of others: "training in", "writing to".
        advice: what another process can do instead of waiting.

    Raises:
        CapdistError: if another process has it.
        OSError: if it can't be written to.
    """
    owner = folder / OWNER
    try:
        lock = FileLock(folder / LOCK).acquire(timeout=0)
    except Timeout:
        other = owner.read_text().strip() if owner.is_file() else "another process"
        raise CapdistError(f"{folder}: {other} is {use} it; wait for it, or {advice}") from None
    with lock:
        write_text(owner, f"process {os.getpid()} on {socket.gethostname()}")
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)
