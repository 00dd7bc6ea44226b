"""File locks of the cache (flock): the kernel releases them when their process ends or is killed.

A copy has a shared lock while a reader may be about to open it; whoever removes it needs an
exclusive one. The writer of a ``.part`` file has an exclusive lock on that file. The filelock
package has no shared locks that work with flock, measures its time limit from the start of the
wait and not from the writer's last progress, and leaves a lock file for every file.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from shards.schema import ShardError

#: The copies that a thread asked for last, and may be about to open, stay locked.
LOCKED_PER_THREAD = 4

_thread_local = threading.local()


def lock_copy(copy: Path) -> bool:
    """Take a shared lock on a copy, until this thread has locked LOCKED_PER_THREAD others.

    Marks the copy as used now.

    Returns:
        False if there is no such copy.
    """
    try:
        file = FileIO(os.open(copy, os.O_RDONLY | os.O_NOFOLLOW))
    except FileNotFoundError:
        return False
    # Waits only while another process gives the copy its name or removes it.
    fcntl.flock(file, fcntl.LOCK_SH)
    if not is_same_file(file, copy):
        file.close()
        return False
    os.utime(file.fileno())
    locked: dict[Path, FileIO] = _thread_local.__dict__.setdefault("locked", {})
    if previous := locked.pop(copy, None):
        previous.close()
    locked[copy] = file
    if len(locked) > LOCKED_PER_THREAD:
        locked.pop(next(iter(locked))).close()
    return True


def remove_unless_locked(copy: Path) -> bool:
    """Remove a copy and its index, unless a process or thread has a lock on the copy.

    Returns:
        Whether it was removed.
    """
    try:
        with copy.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            copy.with_suffix(".index.json").unlink(missing_ok=True)
            copy.unlink()
            fcntl.flock(file, fcntl.LOCK_UN)  # as in `write_lock`
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


@contextmanager
def write_lock(part: Path, limit_s: float) -> Iterator[FileIO]:
    """Open a file, made if need be, with an exclusive lock; waits for its present writer.

    The caller must check by `is_same_file` that ``part`` is still this file: the writer before may
    have renamed or removed it.

    Raises:
        ShardError: if its writer has written nothing for ``limit_s`` seconds.
    """
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with FileIO(handle, "r+b") as file:
        start = time.time()
        while is_same_file(file, part):  # once complete, it is renamed, and locked by readers
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.time() - max(start, os.fstat(handle).st_mtime) > limit_s:
                    raise ShardError(
                        f"{part}: the process that downloads it has written nothing for "
                        f"{limit_s:.0f} s; end that process"
                    ) from None
                time.sleep(0.05)
        try:
            yield file
        finally:
            # Closing is not enough: a process forked meanwhile has the file and its lock too.
            fcntl.flock(file, fcntl.LOCK_UN)


def is_same_file(file: FileIO, path: Path) -> bool:
    """Whether an open file is the one that is at ``path`` now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False
