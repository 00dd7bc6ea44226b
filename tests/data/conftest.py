"""The readers that are installed."""

from __future__ import annotations

import pytest

READERS = ("stream", "mapped", "dali")


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="pip install -e '.[dali]' for DALI's reader")
    chosen: str = request.param
    return chosen
