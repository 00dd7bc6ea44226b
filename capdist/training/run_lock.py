"""One run at a time in a run folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from capdist.config.base import ConfigError
from capdist.distributed.process_group import ProcessGroup
from shards.atomic import write_text
from shards.outputs import check_output_folder


@contextmanager
def run_lock(folder: Path, group: ProcessGroup) -> Iterator[None]:
    """Keep other runs out of a run folder while this one lasts, however it ends.

    Raises:
        ConfigError: on the first rank, if another run is training in it.
        CapdistError, OSError: on the first rank, if it can't be written to.
        OtherRankError: on the others.
    """
    with ExitStack() as held:
        group.agree(lambda: held.enter_context(_locked(folder)) if group.first else None)
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    check_output_folder(folder)
    owner = folder / ".owner"
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        other = owner.read_text().strip() if owner.is_file() else "another process"
        raise ConfigError(
            f"{folder}: {other} is training in it; wait for it, or choose another folder with "
            "--set run=FOLDER"
        ) from None
    with lock:
        write_text(owner, f"process {os.getpid()} on {socket.gethostname()}")
        yield
