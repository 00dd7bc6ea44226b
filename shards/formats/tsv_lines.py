"""Lines of a TSV file with one image each: what the TSV formats have in common.

Such files have tens of gigabytes and lines of a megabyte: one pass finds the offsets of all lines,
and a line is read when its image is.
"""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from shards.image_ids import MAX_ID_DIGITS, Entries
from shards.json_types import ImageId
from shards.progress import BYTES, Progress
from shards.schema import Array, ShardError


class TsvLines:
    """The lines of a TSV file, whose first column is the image id: the base of such formats.

    Attributes:
        path: of the file, which is all of ``paths``.
        bad: one line for each line without a usable id.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.paths = path, [path]
        #: Line number (from 1), offset and size in bytes, by image id.
        lines = Entries[tuple[int, int, int]](lambda line: f"line {line[0]}")
        offset, size, title = 0, path.stat().st_size, f"reading {path.name}"
        with path.open("rb") as file, Progress(size, title=title, unit=BYTES, inner=True) as bar:
            for number, line in enumerate(file, 1):
                name = line.split(b"\t", 1)[0].decode(errors="replace")
                lines.add(f"{path}: {_place(number, offset)}", name, (number, offset, len(line)))
                offset += len(line)
                bar.advance(len(line))
        self._lines, self.bad = lines.by_id, lines.bad

    @property
    def image_ids(self) -> list[ImageId]:
        return list(self._lines)

    def position(self, image_id: ImageId) -> str:
        """The place of an image in the file, for messages."""
        number, offset, _ = self._lines[image_id]
        return _place(number, offset)

    def where(self, image_id: ImageId) -> str:
        """Prefix of messages about an image."""
        return f"{self.path}: {self.position(image_id)}: image {image_id}"

    def columns(self, image_id: ImageId) -> list[bytes]:
        """The columns of an image's line."""
        _, offset, size = self._lines[image_id]
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size).rstrip(b"\r\n").split(b"\t")


def _place(number: int, offset: int) -> str:
    return f"line {number} (byte {offset})"


def first_columns(path: Path) -> list[bytes]:
    """The columns of a TSV file's first line; none if it is not the name of such a file."""
    if not (path.is_file() and ".tsv" in path.suffixes):
        return []
    with path.open("rb") as file:
        return file.readline().rstrip(b"\r\n").split(b"\t")


def decode_numbers(
    where: str, column: bytes | str, count: int, dtype: str = "<f4", *, width: int = -1
) -> Array:
    """The numbers (count, width) of a base64 column.

    Raises:
        ShardError: if it is not base64, or has another number of bytes.
    """
    try:
        data = base64.b64decode(column, validate=True)
    except ValueError as error:
        raise ShardError(
            f"{where} are not base64 ({error}); copy or extract the file again"
        ) from error
    size = np.dtype(dtype).itemsize
    if not count or not data or len(data) % (size * count):
        raise ShardError(
            f"{where}: {len(data) / size:g} numbers, expected a multiple of {count} boxes"
        )
    numbers = np.frombuffer(data, dtype).reshape(count, -1)
    if width > 0 and numbers.shape[1] != width:
        raise ShardError(
            f"{where}: {numbers.shape[1]} numbers for each of {count} boxes, expected {width}"
        )
    return numbers


def parse_sizes(where: str, columns: list[bytes]) -> list[int]:
    """Width, height and number of boxes, in the order of the columns.

    Raises:
        ShardError: if one is not a number.
    """
    if not all(column.isdigit() and len(column) <= MAX_ID_DIGITS for column in columns):
        raise ShardError(
            f"{where}: width, height and number of boxes must be numbers; extract it again"
        )
    return list(map(int, columns))
