"""What captions attended to, as an evaluation stores it next to them."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from capdist.errors import CapdistError
from shards.atomic import atomic_write

#: Images of a split whose attention is stored and shown.
SHOWN = 1000
#: Boxes are stored in thousandths of the image's width and height.
BOX_UNIT = 1000

Weights = npt.NDArray[np.floating[Any]]


class LooksError(CapdistError):
    """A file of stored attention cannot be read."""


@dataclass(frozen=True)
class Map:
    """Attention weights (rows, columns) in 0..1: of each word, to each region or concept.

    ``data`` has them as base64 of bytes, 255 for ``peak``.
    """

    rows: int
    columns: int
    peak: float
    data: str

    @classmethod
    def of(cls, weights: Weights) -> Map:
        peak = float(weights.max(initial=0.0))
        scaled = np.rint(255 * weights / peak if peak else weights).astype(np.uint8)
        data = base64.b64encode(scaled.tobytes()).decode()
        rows, columns = weights.shape
        return cls(rows, columns, round(peak, 5), data)

    @property
    def weights(self) -> Weights:
        stored = np.frombuffer(base64.b64decode(self.data), np.uint8)
        return self.peak / 255 * stored.reshape(self.rows, self.columns)


@dataclass(frozen=True)
class Beam:
    """A caption and the sum of its tokens' log-probabilities."""

    words: list[str]
    score: float


@dataclass(frozen=True)
class Look:
    """One image, by its number (`shards.image_ids.image_number`), as a model saw it.

    ``beams`` are its captions, best first; ``boxes`` are x1 y1 x2 y2 in thousandths of the image,
    and ``labels`` the detector's classes of the regions, empty if the shards have none; ``maps``
    are the attentions before each word of the best caption, by the names of
    `CaptionModel.attention`.
    """

    image: int
    beams: list[Beam]
    boxes: list[list[int]]
    labels: list[str]
    concepts: list[str]
    maps: dict[str, Map]


def write_looks(path: Path, looks: Sequence[Look]) -> None:
    with atomic_write(path) as file:
        text = json.dumps([asdict(look) for look in looks], ensure_ascii=False)
        file.write(gzip.compress(text.encode(), mtime=0))


def read_looks(path: Path) -> list[Look]:
    """Read what `write_looks` wrote.

    Raises:
        LooksError: if the file is damaged.
    """
    try:
        return TypeAdapter(list[Look]).validate_json(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise LooksError(f"{path}: damaged ({reason}); evaluate the run again") from error
