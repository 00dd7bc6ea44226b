"""The compiled copy of regions equals its reference implementation, and writes nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from capdist.data import copy
from capdist.data.copy import address, copy_regions, copy_regions_reference


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8])
@pytest.mark.parametrize("width", [1, 3, 17, 64, 2048])
@pytest.mark.parametrize("shift", [0, 4, 20])
def test_the_compiled_copy_equals_the_reference(dtype: Any, width: int, shift: int) -> None:
    random = np.random.default_rng(width)
    images = [
        [random.integers(-99, 99, (n, width)).astype(dtype) for n in counts]
        for counts in ((5, 0), (0, 2), (1, 3), (4, 2))
    ]
    size = 4 * 6 * width * np.dtype(dtype).itemsize
    memory = np.full(shift + size + 64, 7, np.uint8)
    target = memory[shift : shift + size].view(dtype).reshape(4, 6, width)
    # Some addresses are known, others asked for.
    copy_regions(target, images, [(address(images[0][0]), 0), (0, 0), (0, 0), (0, 0)])
    expected = np.empty_like(target)
    copy_regions_reference(expected, images)
    np.testing.assert_array_equal(target, expected)
    assert (memory[:shift] == 7).all()
    assert (memory[shift + size :] == 7).all()


def test_sources_may_have_any_alignment() -> None:
    memory = np.arange(1000, dtype=np.uint8)
    arrays = [memory[begin : begin + 300].reshape(3, 100) for begin in range(40)]
    target = np.empty((40, 3, 100), np.uint8)
    copy_regions(target, [[array] for array in arrays], [(0,)] * 40)
    np.testing.assert_array_equal(target, np.stack(arrays))


def test_arrays_that_are_not_contiguous_are_refused() -> None:
    target = np.zeros((1, 3, 2), np.float16)
    with pytest.raises(ValueError, match=r"strides \(8, 4\): expected a contiguous one"):
        copy_regions(target, [[np.ones((3, 4), np.float16)[:, ::2]]], [(0,)])


def test_arrays_of_an_image_that_do_not_fit_together_are_refused() -> None:
    target = np.full((1, 3, 2), 7, np.float16)
    arrays = [np.ones((2, 2), np.float16)] * 2
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected at most \(1, 2\)"):
        copy_regions(target, [arrays], [(0, 0)])
    assert (target == 7).all()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 2), np.float32), "regions of float32, expected float16"),
        (np.ones((3, 3), np.float16), r"shape \(3, 3\), expected at most \(3, 2\)"),
        (np.ones((3, 1), np.float16), r"shape \(3, 1\), expected at most \(3, 2\)"),
        (np.ones((4, 2), np.float16), r"shape \(4, 2\), expected at most \(3, 2\)"),
        (np.ones((3, 20000), np.float16), r"shape \(3, 20000\), expected at most \(3, 2\)"),
        (np.ones((3, 2, 1), np.float16), r"shape \(3, 2, 1\), expected at most \(3, 2\)"),
        (np.ones(6, np.float16), r"shape \(6,\), expected at most \(3, 2\)"),
        (np.ones((2, 3), np.float16).T, r"strides \(2, 6\): expected a contiguous one"),
    ],
)
def test_regions_that_do_not_fit_are_refused_before_a_byte_is_written(
    monkeypatch: pytest.MonkeyPatch, array: Any, message: str, compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr(copy, "_compiled", lambda: None)
    memory = np.full(1000, 7, np.float16)
    target = memory[100:112].reshape(2, 3, 2)
    fits = np.ones((3, 2), np.float16)
    with pytest.raises(ValueError, match=message):
        copy_regions(target, [[fits], [array]], [(0,), (0,)])
    assert (memory == 7).all()
