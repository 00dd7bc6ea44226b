"""The kernels compile ahead of time for GPUs that this machine need not have."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def not_interpreted() -> None:
    os.environ.pop("TRITON_INTERPRET", None)


def compiled(stage: str, *arguments: Any) -> Any:
    # Triton decides when it is first imported whether kernels are interpreted.
    from tests.kernels import compile_report

    return getattr(compile_report, stage)(*arguments)


@pytest.fixture(scope="module")
def compiler() -> Iterator[Executor]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=not_interpreted) as pool:
        yield pool


@pytest.mark.parametrize("target", [80, 90])
@pytest.mark.parametrize("beam", [5, 16])
@pytest.mark.parametrize(
    "stage", [("compile_read", "fp32"), ("compile_read", "bf16"), ("compile_merge",)], ids="-".join
)
def test_compiles_without_spills(
    compiler: Executor, stage: tuple[str, ...], beam: int, target: int
) -> None:
    kernel = compiler.submit(compiled, *stage, beam, target).result()
    assert kernel.registers > 0
    assert kernel.cubin > 0
    if beam <= 5:
        assert kernel.spill_stores == kernel.spill_loads == 0
