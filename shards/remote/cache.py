"""Copies of remote files on a node's own disk, shared by all of its processes.

A copy's name begins with the SHA-256 that the manifest gives, so a set that changed never gets an
old file, and a file that two sets have is there once. Bytes arrive in ``<name>.part``, whose lock
(flock, which dies with its process) makes the others wait; where they have the right SHA-256 the
file gets its name. What a killed process left is gone on with.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from shards.remote.download import Patience, ShardUnavailableError, read
from shards.schema import ShardError

#: Bytes of one request, and all that an interrupted one loses.
PIECE = 16 * 2**20
#: Downloads that a process does ahead of its readers at a time.
AHEAD = 2
#: Copies that a thread has asked for last and may be about to open.
HELD = 4

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(tar|json)")
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: What is counted and removed; an index goes with its tar.
_COPY = re.compile(r"[0-9a-f]{32}-.*(?<!\.index\.json)")
_mine = threading.local()


def default_folder() -> Path:
    """``$TMPDIR/capdist-<user id>``, or ``capdist`` in the user's cache folder without TMPDIR."""
    if "TMPDIR" in os.environ:
        return Path(tempfile.gettempdir()) / f"capdist-{os.getuid()}"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "capdist"


@dataclass(frozen=True)
class Cache:
    """A folder on the node's own disk.

    Args:
        folder: made if it is not there.
        size: bytes that the copies may take; those used longest ago go first.
        patience: with servers.
    """

    folder: Path = field(default_factory=default_folder)
    size: int = 64 * 2**30
    patience: Patience = field(default_factory=Patience)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Tell a failure to write here in one line.

        Raises:
            ShardError: in place of an OSError, and where the default folder is another user's.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.folder == default_folder() and self.folder.lstat().st_uid != os.getuid():
                raise ShardError(
                    f"{self.folder}: made by another user, who could change what is read there; "
                    "set data.cache_dir to a folder of your own"
                )
            yield
        except OSError as error:
            place = next(p for p in (self.folder, *self.folder.parents) if p.exists())
            free = os.statvfs(place)
            raise ShardError(
                f"{self.folder}: no copy written, with {free.f_bavail * free.f_frsize // 2**20} MB "
                f"free on its disk: {error}; make room, or set data.cache_dir to a folder on a "
                "larger disk or data.cache_bytes to less"
            ) from error

    def make_room(self, size: int) -> None:
        """Remove copies until ``size`` bytes more fit, but none that is held or arriving."""
        copies = []
        for entry in os.scandir(self.folder):
            if _COPY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                stat = entry.stat(follow_symlinks=False)
                copies.append((stat.st_mtime_ns, stat.st_size, Path(entry)))
        total = sum(taken for _, taken, _ in copies)
        for _, taken, path in sorted(copies):
            if total + size <= self.size:
                return
            total -= taken if _remove(path) else 0


@dataclass(frozen=True)
class Source:
    """A file of a remote set.

    Args:
        folder: the URL of the set.
        name: of the file in it.
        sha256: of its bytes.
        size: in bytes; None: whatever the server gives.
        cache: where its copy is kept.
    """

    folder: str
    name: str
    sha256: str
    size: int | None
    cache: Cache

    def __post_init__(self) -> None:
        check_name(self.folder, self.name)
        if not _DIGEST.fullmatch(self.sha256) or (self.size or 0) < 0:
            raise ShardError(
                f"{self.folder}: names a file {self.name!r} with SHA-256 {self.sha256!r} and "
                f"{self.size} bytes; use no set whose maker you don't know"
            )

    @property
    def url(self) -> str:
        """Where it comes from."""
        return f"{self.folder}/{self.name}"

    @property
    def copy(self) -> Path:
        """Where it lies on this node, once it is whole."""
        return self.cache.folder / f"{self.sha256[:32]}-{self.name}"

    def fetch(self) -> Path:
        """The copy, downloaded unless it is there.

        It is not removed before this thread has fetched four others; once open, it can be read
        to its end whatever happens.

        Raises:
            ShardUnavailableError: if the server does not give these bytes.
            ShardError: if the copy can't be written.
        """
        with self.cache.writing():
            while not _hold(self.copy):
                self._arrive()
        return self.copy

    def _arrive(self) -> None:
        if (self.size or 0) > self.cache.size:
            raise ShardError(
                f"{self.url}: {self.size} bytes are more than the {self.cache.size} of the whole "
                "cache; raise data.cache_bytes"
            )
        part = self.copy.with_name(f"{self.copy.name}.part")
        with _locked(part, 2 * self.cache.patience.limit_s) as file:
            if not _is_at(file, part):
                return  # another process was faster, or its copy is gone again
            if self.copy.exists():
                part.unlink()
                return
            try:
                self._download(file)
            except OSError:
                file.truncate(0)  # most likely the disk is full
                raise
            part.rename(self.copy)

    def _download(self, file: FileIO) -> None:
        for _ in self.cache.patience.attempts():
            size, sha256 = self._fill(file)
            if sha256 == self.sha256:
                os.fsync(file.fileno())
                return
            file.truncate(0)
        raise ShardUnavailableError(
            f"{self.url}: {size} bytes with SHA-256 {sha256}, expected "
            f"{'' if self.size is None else f'{self.size} bytes with '}{self.sha256}, as the "
            "manifest had it when this run began; the set was changed or is not whole: restore it, "
            "or start again to read it as it is now"
        )

    def _fill(self, file: FileIO) -> tuple[int, str]:
        """Size and SHA-256 of the file behind what the server gives from the file's end on."""
        digest, position = hashlib.sha256(), 0
        file.seek(0)
        while begun := file.read(2**20):
            digest.update(begun)
            position += len(begun)
        size = self.size
        self.cache.make_room((size or 0) - position)
        while size is None or position < size:
            end = None if size is None else min(position + PIECE, size)
            data = read(self.url, self.cache.patience, None if size is None else position, end)
            if data is None:
                raise ShardUnavailableError(
                    f"{self.url}: no such file, though the set lists it; restore it"
                )
            if end is None or len(data) > end - position:  # all of it: no ranges
                digest, position = hashlib.sha256(), 0
                file.seek(0)
                file.truncate()
                size = end = len(data)
            _write(file, data)
            digest.update(data)
            position += len(data)
            if position != end:
                break  # the file is shorter than it was
        return position, digest.hexdigest()


def check_name(folder: str, name: str) -> None:
    """Refuse what a set calls a file of its folder and is none: it would lead elsewhere.

    Raises:
        ShardError: naming both.
    """
    if not _NAME.fullmatch(name):
        raise ShardError(
            f"{folder}: names a file {name!r}; expected a plain name, without folders, that ends "
            "in .tar or .json; use no set whose maker you don't know"
        )


def fetch_ahead(sources: Iterable[Source]) -> None:
    """Begin to download files that will be wanted next, a few at a time, beside the caller.

    What goes wrong is not told: whoever wants the file fetches it, and is told then.
    """
    for source in sources:
        # Threads' names are a count that a forked process begins anew.
        names = [thread.name for thread in threading.enumerate() if thread.name.endswith(" ahead")]
        name = f"{source.sha256} ahead"
        if len(names) < AHEAD and name not in names and not source.copy.exists():
            threading.Thread(target=_quietly, args=(source,), name=name, daemon=True).start()


def _quietly(source: Source) -> None:
    try:
        source.fetch()
    except ShardError:
        return


def _hold(copy: Path) -> bool:
    """Whether the copy is there; if so, it stays until this thread has held others."""
    try:
        file = FileIO(os.open(copy, os.O_RDONLY | os.O_NOFOLLOW))
    except FileNotFoundError:
        return False
    fcntl.flock(file, fcntl.LOCK_SH)  # waits only while it is given its name or removed
    if not _is_at(file, copy):
        file.close()
        return False
    os.utime(file.fileno())
    held: dict[Path, FileIO] = _mine.__dict__.setdefault("held", {})
    if before := held.pop(copy, None):
        before.close()
    held[copy] = file
    if len(held) > HELD:
        held.pop(next(iter(held))).close()
    return True


def _remove(copy: Path) -> bool:
    """Remove a copy, and the index made of it, unless somebody has a lock on it."""
    try:
        with copy.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            copy.with_suffix(".index.json").unlink(missing_ok=True)
            copy.unlink()
            fcntl.flock(file, fcntl.LOCK_UN)  # as in `_locked`
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


@contextmanager
def _locked(part: Path, limit_s: float) -> Iterator[FileIO]:
    """The file, which no other process or thread writes meanwhile, if it still is at its place.

    Raises:
        ShardError: if its writer has written nothing for ``limit_s`` seconds.
    """
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with FileIO(handle, "r+b") as file:
        began = time.time()
        while _is_at(file, part):  # until it is whole, and locked by those who read it
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.time() - max(began, os.fstat(handle).st_mtime) > limit_s:
                    raise ShardError(
                        f"{part}: the process that writes it has stopped for {limit_s:.0f} s; "
                        "end that process"
                    ) from None
                time.sleep(0.05)
        try:
            yield file
        finally:
            # Closing is not enough: a process forked meanwhile has the file and its lock too.
            fcntl.flock(file, fcntl.LOCK_UN)


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _write(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
