"""Figures of attention: rows of pictures with weighted boxes, and bars of weighted words."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.atomic import atomic_write

#: Colours of features that are shown together.
COLOURS = ("#e8590c", "#1c7ed6", "#2b8a3e")


@dataclass(frozen=True)
class Weighted:
    """A box (x1 y1 x2 y2 in 0..1) or a word, its weight in 0..1, and a number in `COLOURS`."""

    what: Sequence[float] | str
    weight: float
    colour: int = 0


@dataclass(frozen=True)
class Panel:
    """A picture (a PNG's bytes, or None) of some width / height, with boxes, and words below."""

    title: str
    picture: bytes | None
    aspect: float
    boxes: Sequence[Weighted]
    words: Sequence[Weighted]


def draw_panels(rows: Sequence[tuple[str, Sequence[Panel]]], out: Path) -> None:
    """Write a PNG with a row of panels for each caption."""
    from matplotlib.figure import Figure

    columns = max(len(panels) for _, panels in rows)
    figure = Figure(figsize=(3.4 * columns, 4.6 * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (caption, panels) in zip(parts, rows, strict=True):
        part.suptitle(caption, fontsize=11)
        axes = part.subplots(2, columns, squeeze=False, gridspec_kw={"height_ratios": [3, 1.2]})
        for column, (panel, above, below) in enumerate(zip(panels, *axes, strict=False)):
            _draw_picture(above, panel)
            _draw_words(below, panel.words)
            below.set_visible(bool(panel.words))
            above.set_title(panel.title, fontsize=9.5, loc="left" if column else "center")
    with atomic_write(out) as file:
        figure.savefig(file, format="png", dpi=110)


def _draw_picture(axis: Any, panel: Panel) -> None:
    from matplotlib.patches import Rectangle
    from PIL import Image

    if panel.picture is not None:
        with Image.open(io.BytesIO(panel.picture)) as image:
            axis.imshow(image.convert("RGB"), extent=(0, panel.aspect, 1, 0), aspect="equal")
    axis.set(xlim=(0, panel.aspect), ylim=(1, 0), aspect="equal", xticks=[], yticks=[])
    peak = max((box.weight for box in panel.boxes), default=1.0)
    for box in panel.boxes:
        x1, y1, x2, y2 = (float(value) for value in box.what)
        corner, size = (x1 * panel.aspect, y1), ((x2 - x1) * panel.aspect, y2 - y1)
        colour, strength = COLOURS[box.colour], box.weight / peak
        axis.add_patch(Rectangle(corner, *size, color=colour, alpha=0.35 * strength, lw=0))
        axis.add_patch(Rectangle(corner, *size, ec=colour, fill=False, alpha=strength, lw=1.8))


def _draw_words(axis: Any, words: Sequence[Weighted]) -> None:
    places = range(len(words))
    axis.barh(places, [word.weight for word in words], color=[COLOURS[w.colour] for w in words])
    axis.set_yticks(places, [str(word.what) for word in words], fontsize=8.5)
    axis.invert_yaxis()
    axis.tick_params(axis="x", labelsize=7.5)
    axis.spines[["top", "right"]].set_visible(False)
