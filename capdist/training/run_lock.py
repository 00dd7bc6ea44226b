"""One run at a time in a run folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from capdist.config.base import ConfigError
from capdist.distributed.process_group import ProcessGroup


@contextmanager
def claimed(folder: Path, job: ProcessGroup) -> Iterator[None]:
    """Keep other runs out of a run folder as long as this one lasts, however it ends.

    Raises:
        ConfigError: on the first rank, if another run is at work in it.
        OtherRankError: on the others.
    """
    with ExitStack() as held:
        job.agree(lambda: held.enter_context(_locked(folder)) if job.first else None)
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"{folder}: {file.read().strip() or 'another process'} is training in it; wait "
                "for it, or choose another folder by --set run=FOLDER"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
