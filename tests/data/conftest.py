"""The readers that are installed."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

READERS = ("stream", "mapped", "dali")


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="pip install -e '.[dali]' for DALI's reader")
    yield request.param
    if request.param == "dali":
        # A worker that another test forks must not collect the pipelines, whose threads it lacks:
        # it would wait for them forever.
        gc.collect()
