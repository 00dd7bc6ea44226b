"""A Ray cluster for the tests of pools."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray head node with four CPUs."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "5e" * 32)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster  # reads the environment

        # Ray writes the address of a cluster there.
        Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)
        nodes = Cluster()
        nodes.add_node(num_cpus=4, object_store_memory=2**27, temp_dir=folder)
        yield nodes
        nodes.shutdown()
