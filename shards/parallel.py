"""One function over many items, in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from shards.schema import ShardError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def run(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    workers: int | None,
    title: str,
    unit: str,
) -> list[_Result]:
    """The results in the items' order; shows how far it is.

    Args:
        work: picklable; every process gets it once.
        items: picklable.
        workers: processes, one for each CPU by default; 1 works in this process.
        title: what is being done.
        unit: what an item is.

    Raises:
        ShardError: if a process died.
    """
    processes = min(workers or os.cpu_count() or 1, len(items))
    if processes <= 1:
        return [work(item) for item in tqdm(items, desc=title, unit=unit)]
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, spawn, _start_worker, (work,)) as pool:
            done = pool.map(_do_in_worker, items)
            return list(tqdm(done, total=len(items), desc=title, unit=unit))
    except BrokenProcessPool as error:
        raise ShardError(
            f"a worker process ended while {title} (out of memory?); run the same command again "
            "with fewer --workers: complete shards are kept"
        ) from error


_work: Callable[[Any], Any]


def _start_worker(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent was killed: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do_in_worker(item: Any) -> Any:
    return _work(item)
