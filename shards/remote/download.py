"""Reads files from servers, with time limits and retries. The only importer of fsspec.

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
    """A server does not deliver a file of a set, after all retries."""


@dataclass(frozen=True)
class RetryPolicy:
    """Retries with exponential back-off.

    Args:
        max_attempts: requests before a file is given up.
        backoff_s: seconds before the second request; doubled before each further one.
        timeout_s: seconds that one request may take, its answer included.
    """

    max_attempts: int = 5
    backoff_s: float = 1.0
    timeout_s: float = 60.0

    def attempts(self) -> Iterator[int]:
        """The numbers of the attempts; waits before each but the first."""
        for number in range(self.max_attempts):
            if number:
                time.sleep(self.backoff_s * 2 ** (number - 1))
            yield number

    @property
    def limit_s(self) -> float:
        """Seconds after which a request has been answered or given up."""
        return self.max_attempts * self.timeout_s + self.backoff_s * 2 ** (self.max_attempts - 1)


def is_url(location: Path | str) -> bool:
    """Whether this is a URL that fsspec reads, such as ``s3://bucket/set``, and not a path."""
    return "://" in str(location)


def read_url(
    url: str, retry: RetryPolicy, start: int | None = None, end: int | None = None
) -> bytes | None:
    """The bytes of a file from ``start`` to ``end`` (exclusive), or None if there is no such file.

    A server without range requests sends the whole file.

    Raises:
        ShardUnavailableError: if every attempt failed.
        ShardError: if the library for such URLs is not installed.
    """
    last: Exception | None = None
    for _ in retry.attempts():
        try:
            return _request(url, start, end, retry.timeout_s)
        except FileNotFoundError:
            return None
        except ShardError:
            raise
        except Exception as error:  # every library has errors of its own
            last = error
    reason = " ".join(str(last).split())
    raise ShardUnavailableError(
        f"{url}: {retry.max_attempts} attempts failed, the last with {type(last).__name__}"
        f"{f' ({reason})' if reason else ''}; check that this machine reaches the server and may "
        "read there, then start again"
    ) from last


def _request(url: str, start: int | None, end: int | None, timeout_s: float) -> bytes:
    filesystem, path = _open(url)
    if not filesystem.async_impl:
        return filesystem.cat_file(path, start=start, end=end)
    from fsspec.asyn import sync

    request = filesystem._cat_file
    return sync(filesystem.loop, request, path, start=start, end=end, timeout=timeout_s)


def _open(url: str) -> tuple[Any, str]:
    # With content compression, byte ranges would count compressed bytes.
    plain: dict[str, Any] = {"headers": {"Accept-Encoding": "identity"}}
    options = {**plain, "client_kwargs": {"trust_env": True}} if url.startswith("http") else {}
    try:
        from fsspec.core import url_to_fs

        # Not cached here: fsspec caches file systems itself, and knows which are from a fork.
        return url_to_fs(url, **options)
    except ImportError as error:
        raise ShardError(
            f"{url}: {error}; install it with: pip install 'capdist[remote]'"
        ) from error
    except ValueError as error:
        raise ShardError(
            f"{url}: {error}; expected a folder, or a URL that fsspec can read"
        ) from error
