"""The shape of each kind: strokes in the unit square of its box, painted in order."""

from __future__ import annotations

from dataclasses import dataclass

#: Tones of an object's colour, and the ink of outlines.
MAIN, LIGHT, DARK, INK = "main", "light", "dark", "ink"

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Stroke:
    """One Pillow shape ("ellipse", "rectangle", "polygon" or "line") in one tone.

    The points run from 0, 0 at the upper left of the object's box to 1, 1 at the lower right.
    """

    shape: str
    tone: str
    points: Points


def _stroke(shape: str, tone: str, *numbers: float) -> Stroke:
    return Stroke(shape, tone, tuple(zip(numbers[::2], numbers[1::2], strict=True)))


def _oval(tone: str, *numbers: float) -> Stroke:
    return _stroke("ellipse", tone, *numbers)


def _rect(tone: str, *numbers: float) -> Stroke:
    return _stroke("rectangle", tone, *numbers)


def _poly(tone: str, *numbers: float) -> Stroke:
    return _stroke("polygon", tone, *numbers)


def _line(tone: str, *numbers: float) -> Stroke:
    return _stroke("line", tone, *numbers)


SHAPES: dict[str, tuple[Stroke, ...]] = {
    "cat": (
        _line(MAIN, 0.78, 0.95, 0.97, 0.8, 0.92, 0.5),
        _oval(MAIN, 0.2, 0.45, 0.82, 1),
        _poly(MAIN, 0.2, 0.3, 0.18, 0, 0.45, 0.16),
        _poly(MAIN, 0.8, 0.3, 0.82, 0, 0.55, 0.16),
        _oval(MAIN, 0.18, 0.1, 0.82, 0.62),
        _oval(INK, 0.34, 0.28, 0.42, 0.4),
        _oval(INK, 0.58, 0.28, 0.66, 0.4),
        _line(INK, 0.02, 0.4, 0.32, 0.46),
        _line(INK, 0.98, 0.4, 0.68, 0.46),
        _poly(DARK, 0.45, 0.45, 0.55, 0.45, 0.5, 0.52),
    ),
    "dog": (
        _line(MAIN, 0.1, 0.5, 0, 0.2),
        _rect(MAIN, 0.12, 0.7, 0.24, 1),
        _rect(MAIN, 0.56, 0.7, 0.68, 1),
        _oval(MAIN, 0.06, 0.42, 0.74, 0.8),
        _oval(MAIN, 0.5, 0.05, 0.92, 0.55),
        _oval(MAIN, 0.72, 0.25, 1, 0.5),
        _oval(DARK, 0.46, 0.08, 0.64, 0.5),
        _oval(INK, 0.92, 0.28, 1, 0.36),
        _oval(INK, 0.72, 0.17, 0.79, 0.25),
    ),
    "bird": (
        _line(INK, 0.45, 0.8, 0.42, 1),
        _line(INK, 0.58, 0.8, 0.6, 1),
        _poly(DARK, 0.25, 0.55, 0, 0.4, 0.05, 0.7),
        _oval(MAIN, 0.15, 0.35, 0.78, 0.88),
        _oval(MAIN, 0.52, 0.08, 0.9, 0.48),
        _poly(DARK, 0.88, 0.22, 1, 0.3, 0.86, 0.36),
        _poly(LIGHT, 0.28, 0.5, 0.62, 0.52, 0.38, 0.76),
        _oval(INK, 0.7, 0.2, 0.77, 0.28),
    ),
    "ball": (
        _oval(MAIN, 0, 0, 1, 1),
        _line(DARK, 0.05, 0.62, 0.5, 0.78, 0.95, 0.62),
        _line(DARK, 0.05, 0.38, 0.5, 0.5, 0.95, 0.38),
        _oval(LIGHT, 0.24, 0.1, 0.46, 0.3),
    ),
    "moon": (
        _poly(
            MAIN, 0.62, 0, 0.3, 0.08, 0.08, 0.3, 0.02, 0.55, 0.12, 0.8, 0.35, 0.97, 0.62, 1,
            0.95, 0.82, 0.7, 0.8, 0.5, 0.68, 0.4, 0.48, 0.42, 0.24,
        ),
        _oval(DARK, 0.16, 0.45, 0.26, 0.55),
        _oval(DARK, 0.32, 0.75, 0.4, 0.83),
    ),
    "clock": (
        _oval(MAIN, 0, 0, 1, 1),
        _oval(LIGHT, 0.14, 0.14, 0.86, 0.86),
        _line(INK, 0.5, 0.5, 0.5, 0.2),
        _line(INK, 0.5, 0.5, 0.72, 0.6),
        _oval(INK, 0.46, 0.46, 0.54, 0.54),
    ),
    "box": (
        _poly(DARK, 0, 0.22, 0.18, 0, 0.82, 0, 1, 0.22),
        _rect(MAIN, 0, 0.22, 1, 1),
        _rect(LIGHT, 0.4, 0.22, 0.6, 1),
    ),
    "book": (
        _poly(MAIN, 0, 0.12, 0.5, 0.2, 1, 0.12, 1, 0.95, 0.5, 1, 0, 0.95),
        _poly(LIGHT, 0.06, 0.04, 0.5, 0.14, 0.5, 0.9, 0.06, 0.84),
        _poly(LIGHT, 0.94, 0.04, 0.5, 0.14, 0.5, 0.9, 0.94, 0.84),
        _line(INK, 0.14, 0.3, 0.42, 0.36),
        _line(INK, 0.14, 0.52, 0.42, 0.58),
        _line(INK, 0.58, 0.36, 0.86, 0.3),
        _line(INK, 0.58, 0.58, 0.86, 0.52),
    ),
    "house": (
        _rect(MAIN, 0.1, 0.42, 0.9, 1),
        _poly(DARK, 0, 0.46, 0.5, 0, 1, 0.46),
        _rect(INK, 0.56, 0.65, 0.74, 1),
        _rect(LIGHT, 0.2, 0.56, 0.42, 0.76),
    ),
    "cone": (
        _rect(DARK, 0, 0.88, 1, 1),
        _poly(MAIN, 0.42, 0, 0.58, 0, 0.88, 0.88, 0.12, 0.88),
        _poly(LIGHT, 0.34, 0.28, 0.66, 0.28, 0.74, 0.5, 0.26, 0.5),
    ),
    "tree": (
        _rect(INK, 0.42, 0.68, 0.58, 1),
        _poly(MAIN, 0.5, 0.28, 1, 0.82, 0, 0.82),
        _poly(MAIN, 0.5, 0, 0.86, 0.5, 0.14, 0.5),
    ),
    "kite": (
        _line(INK, 0.5, 0.7, 0.7, 0.85, 0.5, 1),
        _poly(MAIN, 0.5, 0, 1, 0.3, 0.5, 0.74, 0, 0.3),
        _line(LIGHT, 0.5, 0, 0.5, 0.74),
        _line(LIGHT, 0, 0.3, 1, 0.3),
    ),
    "car": (
        _poly(MAIN, 0.2, 0.45, 0.32, 0.05, 0.7, 0.05, 0.84, 0.45),
        _poly(LIGHT, 0.28, 0.42, 0.36, 0.14, 0.49, 0.14, 0.49, 0.42),
        _poly(LIGHT, 0.54, 0.42, 0.54, 0.14, 0.67, 0.14, 0.76, 0.42),
        _rect(MAIN, 0, 0.42, 1, 0.8),
        _oval(INK, 0.12, 0.6, 0.36, 1),
        _oval(INK, 0.64, 0.6, 0.88, 1),
    ),
    "boat": (
        _line(INK, 0.48, 0.72, 0.48, 0),
        _poly(LIGHT, 0.52, 0.05, 0.52, 0.64, 0.95, 0.64),
        _poly(DARK, 0.44, 0.16, 0.44, 0.64, 0.1, 0.64),
        _poly(MAIN, 0, 0.7, 1, 0.7, 0.82, 1, 0.18, 1),
    ),
    "fish": (
        _poly(DARK, 0.7, 0.5, 1, 0.1, 1, 0.9),
        _poly(DARK, 0.3, 0.2, 0.45, 0, 0.6, 0.22),
        _oval(MAIN, 0, 0.15, 0.8, 0.9),
        _oval(INK, 0.14, 0.38, 0.22, 0.5),
        _line(DARK, 0.32, 0.28, 0.38, 0.52, 0.32, 0.76),
    ),
    "flower": (
        _line(INK, 0.5, 0.5, 0.5, 1),
        _oval(MAIN, 0.32, 0, 0.68, 0.32),
        _oval(MAIN, 0.32, 0.38, 0.68, 0.7),
        _oval(MAIN, 0.12, 0.18, 0.48, 0.52),
        _oval(MAIN, 0.52, 0.18, 0.88, 0.52),
        _oval(LIGHT, 0.38, 0.23, 0.62, 0.47),
        _poly(DARK, 0.5, 0.92, 0.85, 0.72, 0.75, 0.92),
    ),
    "mushroom": (
        _rect(LIGHT, 0.36, 0.5, 0.64, 1),
        _poly(
            MAIN, 0, 0.55, 0.06, 0.3, 0.25, 0.08, 0.5, 0, 0.75, 0.08, 0.94, 0.3, 1, 0.55,
        ),
        _oval(LIGHT, 0.22, 0.2, 0.38, 0.36),
        _oval(LIGHT, 0.58, 0.12, 0.72, 0.26),
        _oval(LIGHT, 0.68, 0.34, 0.82, 0.48),
    ),
    "umbrella": (
        _line(INK, 0.5, 0.4, 0.5, 0.94, 0.62, 0.98, 0.68, 0.86),
        _poly(
            MAIN, 0, 0.5, 0.08, 0.25, 0.28, 0.06, 0.5, 0, 0.72, 0.06, 0.92, 0.25, 1, 0.5,
            0.83, 0.42, 0.67, 0.5, 0.5, 0.42, 0.33, 0.5, 0.17, 0.42,
        ),
        _line(DARK, 0.5, 0, 0.33, 0.48),
        _line(DARK, 0.5, 0, 0.67, 0.48),
    ),
    "chair": (
        _rect(MAIN, 0.05, 0, 0.2, 1),
        _rect(MAIN, 0.82, 0.55, 0.97, 1),
        _rect(DARK, 0.2, 0.12, 0.34, 0.5),
        _rect(MAIN, 0.05, 0.48, 0.97, 0.64),
    ),
    "table": (
        _rect(DARK, 0.08, 0.2, 0.2, 1),
        _rect(DARK, 0.8, 0.2, 0.92, 1),
        _rect(MAIN, 0, 0, 1, 0.24),
    ),
    "lamp": (
        _rect(INK, 0.45, 0.45, 0.55, 0.92),
        _oval(DARK, 0.2, 0.86, 0.8, 1),
        _poly(MAIN, 0.3, 0, 0.7, 0, 1, 0.5, 0, 0.5),
        _poly(LIGHT, 0.42, 0.06, 0.52, 0.06, 0.5, 0.44, 0.32, 0.44),
    ),
    "cup": (
        _oval(DARK, 0.62, 0.3, 1, 0.75),
        _oval(LIGHT, 0.7, 0.4, 0.9, 0.66),
        _poly(MAIN, 0.02, 0.08, 0.82, 0.08, 0.72, 1, 0.12, 1),
        _oval(LIGHT, 0.02, 0, 0.82, 0.18),
    ),
    "key": (
        _rect(MAIN, 0.45, 0.4, 1, 0.6),
        _rect(MAIN, 0.7, 0.6, 0.78, 0.9),
        _rect(MAIN, 0.88, 0.6, 0.97, 0.9),
        _oval(MAIN, 0, 0.05, 0.5, 0.95),
        _oval(LIGHT, 0.13, 0.3, 0.33, 0.7),
    ),
    "star": (
        _poly(
            MAIN, 0.5, 0, 0.62, 0.36, 1, 0.37, 0.69, 0.6, 0.81, 1, 0.5, 0.75, 0.19, 1,
            0.31, 0.6, 0, 0.37, 0.38, 0.36,
        ),
    ),
}  # fmt: skip
