"""The threads of torch's operations on a CPU, chosen before torch is imported."""

from __future__ import annotations

import os


def choose_threads() -> None:
    """Let this process share the cores with others, unless the environment says otherwise.

    OpenMP's threads spin while they wait for each other. If another program keeps a core busy, all
    of them wait for the thread of that core, and take the time of the others while they spin; so
    they sleep instead. The ranks of a node divide its cores among them.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
    if ranks > 1:
        cores = len(os.sched_getaffinity(0))
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
