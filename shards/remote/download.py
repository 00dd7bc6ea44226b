"""Files on servers, read with time limits and retries: the only door to fsspec.

Credentials and options are those of fsspec and its libraries: AWS_*, ~/.aws, FSSPEC_*, proxies.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.schema import ShardError


class ShardUnavailableError(ShardError):
    """A file of a set that its server does not give, though it was asked patiently."""


@dataclass(frozen=True)
class Patience:
    """How long a server may take.

    Args:
        tries: requests before a file is given up.
        wait_s: seconds before the second; they double before every other.
        timeout_s: seconds that one request may take, its answer included.
    """

    tries: int = 5
    wait_s: float = 1.0
    timeout_s: float = 60.0

    def attempts(self) -> Iterator[int]:
        """The numbers of the tries, each behind its wait."""
        for number in range(self.tries):
            if number:
                time.sleep(self.wait_s * 2 ** (number - 1))
            yield number

    @property
    def limit_s(self) -> float:
        """Seconds behind which a request has been answered or given up."""
        return self.tries * self.timeout_s + self.wait_s * 2 ** (self.tries - 1)


def is_url(place: Path | str) -> bool:
    """Whether this is a place that fsspec reads, like ``s3://bucket/set``, and no folder."""
    return "://" in str(place)


def read(
    url: str, patience: Patience, start: int | None = None, end: int | None = None
) -> bytes | None:
    """A file's bytes from ``start`` to ``end`` (exclusive), or None if there is no such file.

    A server that knows no ranges gives the whole file.

    Raises:
        ShardUnavailableError: if every try failed.
        ShardError: if a library for such URLs is missing.
    """
    last: Exception | None = None
    for _ in patience.attempts():
        try:
            return _ask(url, start, end, patience.timeout_s)
        except FileNotFoundError:
            return None
        except ShardError:
            raise
        except Exception as error:  # every library has errors of its own
            last = error
    said = " ".join(str(last).split())
    raise ShardUnavailableError(
        f"{url}: {patience.tries} tries failed, the last by {type(last).__name__}"
        f"{f' ({said})' if said else ''}; see that this machine reaches the server and may "
        "read there, then start again"
    ) from last


def _ask(url: str, start: int | None, end: int | None, timeout_s: float) -> bytes:
    files, path = _open(url)
    if not files.async_impl:
        return files.cat_file(path, start=start, end=end)
    from fsspec.asyn import sync

    return sync(files.loop, files._cat_file, path, start=start, end=end, timeout=timeout_s)


def _open(url: str) -> tuple[Any, str]:
    # Compressed on its way, a file would have other ranges.
    plain: dict[str, Any] = {"headers": {"Accept-Encoding": "identity"}}
    options = {**plain, "client_kwargs": {"trust_env": True}} if url.startswith("http") else {}
    try:
        from fsspec.core import url_to_fs

        # Asked for anew each time: fsspec knows which of its own belong to this process.
        return url_to_fs(url, **options)
    except ImportError as error:
        raise ShardError(f"{url}: {error}; pip install 'capdist[remote]'") from error
    except ValueError as error:
        raise ShardError(f"{url}: {error}; data.shards is a folder or a URL of one") from error
