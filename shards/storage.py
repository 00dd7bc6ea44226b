"""Storage of region features: float16, or int8 with a scale for each dimension."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from shards.schema import Array

#: Values of ``--storage``.
STORAGES = ("fp16", "int8")

_INT8_MAX = 127


def int8_scale(max_abs: Array) -> tuple[float, ...]:
    """The scale (F numbers) of dimensions whose largest absolute values are ``max_abs`` (F,).

    Rounded to nine digits, which identify a float32 number.
    """
    return tuple(float(f"{value:.9g}") for value in max_abs.astype(np.float32) / _INT8_MAX)


def quantize_int8(regions: Array, scale: tuple[float, ...]) -> Array:
    """Regions (R, F) rounded to int8 steps; a dimension with scale 0 has only zeros."""
    steps = np.array(scale, np.float32)
    steps[steps == 0] = 1
    return np.rint(regions / steps).clip(-_INT8_MAX, _INT8_MAX).astype(np.int8)


def to_float16(regions: Array) -> Array:
    """Regions as float16; values beyond its range become infinite (`check_features`)."""
    with np.errstate(over="ignore"):
        return regions.astype(np.float16)


def quantization_error(images: Iterable[Array], scale: tuple[float, ...]) -> str:
    """The relative RMS error of int8 storage, in words: √(Σ(x̂ − x)² / Σx²).

    Args:
        images: regions (R, F) of some images, as floats.
        scale: F numbers, of the int8 storage.
    """
    errors, squares = np.zeros(len(scale)), np.zeros(len(scale))
    for regions in images:
        exact = regions.astype(np.float64)
        errors += ((quantize_int8(regions, scale) * np.array(scale) - exact) ** 2).sum(axis=0)
        squares += (exact**2).sum(axis=0)
    by_dimension = np.sqrt(errors / np.where(squares == 0, 1, squares))
    worst = int(by_dimension.argmax())
    total = float(np.sqrt(errors.sum() / (squares.sum() or 1)))
    return (
        f"relative RMS error {total:.2%}, of the worst dimension ({worst}) "
        f"{by_dimension[worst]:.2%}"
    )
