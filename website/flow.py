"""Figures of the flow of tensors through a model, from a description in a page.

A block of the language ``flow`` names a model, by its section of a config, and its tensors:

    updown {"regions": 12}
    once for every image:
    f = batch.regions (B, R, F)
    v = self.regions (B, R, P) <- f
    for every word:
    ...

A line is a row of the figure, with boxes divided by ``|``. A box has a symbol, what returns the
tensor, its shape, and the symbols of what it is computed from. What returns a tensor is a member
of the ``batch``, the ``token`` or a part of the ``state`` that `CaptionModel.step` reads, a layer
or a method of ``self``, or a function of the model's module; ``[...]`` is a part of what it
returns. tests/website/test_flow.py runs the model and compares all of it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

#: Letters of shapes.
LETTERS = {
    "B": "images",
    "S": "captions of an image",
    "K": "hypotheses",
    "T": "words of all captions",
    "R": "regions",
    "A": "concepts",
    "F": "width of a region's features",
    "D": "width of the model",
    "E": "width of the word table",
    "H": "width inside the attention",
    "P": "width of embedded regions",
    "C": "classes",
    "X": "most likely classes of a region",
    "L": "length of a caption",
    "M": "forms of a class's words",
    "W": "words of the detector",
    "V": "words of the vocabulary",
}
_BOX = re.compile(r"(?P<symbol>.+?) = (?P<code>\S+) \((?P<shape>[^)]*)\)(?: <- (?P<sources>.+))?")


@dataclass(frozen=True)
class Box:
    symbol: str
    code: str
    shape: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Rows of boxes under a title."""

    title: str
    rows: list[list[Box]] = field(default_factory=list)


@dataclass(frozen=True)
class Flow:
    """``model`` is the model's section."""

    model: dict[str, Any]
    parts: list[Part]

    @property
    def rows(self) -> list[list[Box]]:
        return [row for part in self.parts for row in part.rows]

    @property
    def boxes(self) -> list[Box]:
        return [box for row in self.rows for box in row]


def parse(text: str) -> Flow:
    """Read a description.

    Raises:
        ValueError: if a line is not one, or an arrow does not come from a row above.
    """
    first, *lines = [line.strip() for line in text.strip().splitlines()]
    name, _, options = first.partition(" ")
    flow = Flow({"name": name, **json.loads(options or "{}")}, [])
    known: set[str] = set()
    for line in lines:
        if line.endswith(":"):
            flow.parts.append(Part(line[:-1]))
            continue
        row = [_box(cell.strip()) for cell in line.split(" | ")]
        for box in row:
            if unknown := set(box.sources) - known:
                raise ValueError(f"flow: {box.symbol}: no rows above have {sorted(unknown)}")
        symbols = [box.symbol for box in row]
        if known.intersection(symbols) or len(set(symbols)) < len(symbols):
            raise ValueError(f"flow: a symbol is there twice: {line}")
        known.update(symbols)
        flow.parts[-1].rows.append(row)
    return flow


def _box(text: str) -> Box:
    found = _BOX.fullmatch(text)
    if found is None:
        raise ValueError(f"flow: expected symbol = code (shape) <- symbols, not: {text}")
    # A comma in a symbol such as a(h, V) does not divide symbols.
    sources = re.split(r", (?![^(]*\))", found["sources"] or "")
    return Box(found["symbol"], found["code"], found["shape"], tuple(filter(None, sources)))
