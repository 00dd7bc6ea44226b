"""Regions as they are stored: float16, or int8 with one scale for each dimension."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from shards.schema import Array

#: The names of both on the command line.
STORAGES = ("fp16", "int8")

_GREATEST = 127


def scale_of(peaks: Array) -> tuple[float, ...]:
    """The int8 scale of dimensions whose largest absolute values are ``peaks`` (F,).

    The numbers are float32, written with the nine digits that tell these apart.
    """
    return tuple(float(f"{value:.9g}") for value in peaks.astype(np.float32) / _GREATEST)


def to_int8(regions: Array, scale: tuple[float, ...]) -> Array:
    """Regions (R, F) as int8, to the nearest; a dimension of scale 0 holds zeros alone."""
    steps = np.array(scale, np.float32)
    steps[steps == 0] = 1
    return np.rint(regions / steps).clip(-_GREATEST, _GREATEST).astype(np.int8)


def to_float16(regions: Array) -> Array:
    """Regions as float16; values beyond its range become infinite, which checks refuse."""
    with np.errstate(over="ignore"):
        return regions.astype(np.float16)


def loss(images: Iterable[Array], scale: tuple[float, ...]) -> str:
    """What int8 costs, in words: the root of the mean squared error over that of the squares.

    Args:
        images: regions (R, F) of some images, as floats.
        scale: of their int8 form.
    """
    errors, squares = np.zeros(len(scale)), np.zeros(len(scale))
    for regions in images:
        wide = regions.astype(np.float64)
        errors += ((to_int8(regions, scale) * np.array(scale) - wide) ** 2).sum(axis=0)
        squares += (wide**2).sum(axis=0)
    each = np.sqrt(errors / np.where(squares == 0, 1, squares))
    worst = int(each.argmax())
    whole = float(np.sqrt(errors.sum() / (squares.sum() or 1)))
    return f"relative RMS error {whole:.2%}, of the worst dimension ({worst}) {each[worst]:.2%}"
