"""Applies a function to many items in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from shards.progress import tracked
from shards.schema import ShardError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def parallel_map(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    workers: int | None,
    title: str,
    unit: str,
) -> list[_Result]:
    """As `parallel_results`, all of them, with a progress bar of this title, in this unit."""
    results = parallel_results(function, items, workers, title)
    return list(tracked(results, len(items), title=title, unit=unit))


def parallel_results(
    function: Callable[[_Item], _Result], items: Sequence[_Item], workers: int | None, title: str
) -> Iterator[_Result]:
    """The results in the order of the items.

    Args:
        function: picklable; sent to each process once.
        items: picklable.
        workers: processes, one per CPU by default; with 1, everything runs in this process.
        title: of the work, for messages: "writing".

    Raises:
        ShardError: if a process died.
    """
    processes = min(workers or os.cpu_count() or 1, len(items))
    if processes <= 1:
        yield from map(function, items)
        return
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, spawn, _start_worker, (function,)) as pool:
            yield from pool.map(_apply, items)
    except BrokenProcessPool as error:
        raise ShardError(
            f"{title}: a worker process was killed, perhaps because memory ran out; run the same "
            "command again with fewer --workers: it keeps complete shards"
        ) from error


_function: Callable[[Any], Any]


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this worker if its parent is killed: a process pool would leave it running."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _apply(item: Any) -> Any:
    return _function(item)
