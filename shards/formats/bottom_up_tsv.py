"""Features from a bottom-up TSV file: one image per line, tab-separated, without a header.

Columns: image id, width and height of the image, number of boxes R; boxes and features, each the
base64 of raw little-endian float32, (R, 4) x1 y1 x2 y2 in pixels and (R, F).

Source: Anderson et al. 2018, the files that the bottom-up-attention code writes. Such files have
tens of gigabytes and lines of a megabyte: one pass finds the offsets of all lines, and a line is
read when its image is.
"""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from shards.formats import RegionFeatures, feature_format
from shards.image_ids import MAX_ID_DIGITS, Entries
from shards.json_types import ImageId
from shards.schema import Array, ShardError

_COLUMNS = 6


@feature_format("bottom_up_tsv")
class BottomUpTsv:
    """Features from one TSV file."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        #: Line number (from 1), offset and size in bytes, by image id.
        lines = Entries[tuple[int, int, int]](lambda line: f"line {line[0]}")
        offset = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                name = line.split(b"\t", 1)[0].decode(errors="replace")
                lines.add(self._where(number, offset), name, (number, offset, len(line)))
                offset += len(line)
        self._lines, self.bad = lines.by_id, lines.bad

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether its name ends in .tsv or .tsv.<number>."""
        return path.is_file() and ".tsv" in path.suffixes

    @property
    def image_ids(self) -> list[ImageId]:
        return list(self._lines)

    def read(self, image_id: ImageId) -> RegionFeatures:
        number, offset, size = self._lines[image_id]
        where = f"{self._where(number, offset)}: image {image_id}"
        with self.paths[0].open("rb") as file:
            file.seek(offset)
            columns = file.read(size).rstrip(b"\r\n").split(b"\t")
        if len(columns) != _COLUMNS:
            raise ShardError(f"{where}: {len(columns)} columns, expected {_COLUMNS}")
        if not all(column.isdigit() and len(column) <= MAX_ID_DIGITS for column in columns[1:4]):
            raise ShardError(
                f"{where}: width, height and number of boxes must be numbers; extract it again"
            )
        width, height, count = map(int, columns[1:4])
        boxes = _floats(f"{where}: boxes", columns[4], count)
        regions = _floats(f"{where}: features", columns[5], count)
        return RegionFeatures(
            regions,
            boxes,
            width=width,
            height=height,
            pixels=True,
            position=f"line {number} (byte {offset})",
        )

    def _where(self, number: int, offset: int) -> str:
        return f"{self.paths[0]}: line {number} (byte {offset})"


def _floats(where: str, column: bytes, count: int) -> Array:
    """The numbers (count, -1) of a base64 column."""
    try:
        data = base64.b64decode(column, validate=True)
    except ValueError as error:
        raise ShardError(
            f"{where} are not base64 ({error}); copy or extract the file again"
        ) from error
    if not count or not data or len(data) % (4 * count):
        raise ShardError(
            f"{where}: {len(data) / 4:g} numbers, expected a multiple of {count} boxes"
        )
    return np.frombuffer(data, "<f4").reshape(count, -1)
