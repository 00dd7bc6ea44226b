"""Captions from a CSV file with a header: one caption per line.

Columns, in any order; others are not read:

=====================================  ======================================================
``image_id`` [``id``, ``image``,       the image id, or the name of its file, see
``file_name``, ``filename``,           `shards.image_ids.parse_image_id`
``image_name``]
``caption`` [``comment``, ``text``]    the caption
``split``                              train, restval (becomes train), val or test; without this
                                       column, the split is the one in the file's name, as in
                                       `coco_captions`
=====================================  ======================================================

The lines of an image need not be adjacent. Columns are separated by a comma, a semicolon, a tab or
``|``. There are no tokens. Source: Kaggle's captions.txt and results.csv of the Flickr sets, and
tables that people export.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shards.formats import Annotation, caption_format
from shards.formats.coco_captions import split_in_name
from shards.formats.karpathy import SPLITS
from shards.image_ids import parse_image_id
from shards.json_types import ImageId
from shards.schema import ShardError

_IMAGE = ("image_id", "id", "image", "file_name", "filename", "image_name")
_CAPTION = ("caption", "comment", "text")
_DELIMITERS = ",;\t|"


@dataclass
class _Image:
    """What the lines of an image say; ``where`` is the place of the first."""

    where: str
    file_name: str
    split: str
    captions: list[str] = field(default_factory=list)


@caption_format("csv_captions")
class CsvCaptions:
    """Captions from one CSV file."""

    def __init__(self, path: Path) -> None:
        self._file = path

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether its name ends in .csv."""
        return path.is_file() and path.suffix == ".csv"

    def annotations(self) -> list[Annotation]:
        """All images, in the order of their first lines.

        Raises:
            ShardError: naming the line, if an image id or a caption is missing, or two lines of an
                image differ in their split or in the name of its file.
        """
        images: dict[ImageId, _Image] = {}
        for line in self._lines():
            image_id = parse_image_id(line.image)
            image = images.setdefault(image_id, _Image(line.where, line.image, line.split))
            if image.split != line.split:
                raise ShardError(
                    f"{line.where}: image {image_id} is of split {line.split}, but of "
                    f"{image.split} in an earlier line; correct one"
                )
            if image.file_name != line.image:
                raise ShardError(
                    f"{line.where}: {line.image} is image {image_id}, as is {image.file_name} in "
                    "an earlier line; rename one"
                )
            image.captions.append(line.caption)
        return [
            Annotation(
                image_id=image_id,
                file_name=image.file_name,
                split=image.split,
                captions=tuple(image.captions),
                tokens=(),
                position=image.where,
            )
            for image_id, image in images.items()
        ]

    def _lines(self) -> Iterator[_Line]:
        first = 2
        with self._file.open(newline="", encoding="utf-8-sig") as file:
            try:
                header = file.readline()
                dialect = max(_DELIMITERS, key=header.count)
                columns = self._columns(next(csv.reader([header], delimiter=dialect), []))
                reader = csv.reader(file, delimiter=dialect, strict=True)
                for row in reader:
                    yield self._line(f"{self._file}: line {reader.line_num + 1}", columns, row)
                    first = reader.line_num + 2
            except UnicodeDecodeError as error:
                raise ShardError(f"{self._file}: not UTF-8 ({error}); save it as UTF-8") from error
            except csv.Error as error:
                raise ShardError(
                    f"{self._file}: line {first}: {error}; put captions with quotes in quotes, and "
                    "double those inside"
                ) from error

    def _columns(self, header: list[str]) -> _Columns:
        """The positions of the columns that are read."""
        names = [name.strip().lower() for name in header]
        found = [
            next((names.index(name) for name in known if name in names), None)
            for known in (_IMAGE, _CAPTION, ("split",))
        ]
        image, caption, split = found
        if image is None or caption is None:
            known = _IMAGE if image is None else _CAPTION
            raise ShardError(
                f"{self._file}: no column {' or '.join(known)}, only {', '.join(names[:8])}; name "
                "the columns in the first line"
            )
        usual = split_in_name(self._file) if split is None else ""
        return _Columns(len(names), image, caption, split, usual)

    def _line(self, where: str, columns: _Columns, row: list[str]) -> _Line:
        if len(row) != columns.count:
            raise ShardError(
                f"{where}: {len(row)} columns, expected {columns.count} as in the first line; put "
                "captions in quotes"
            )
        split = columns.usual if columns.split is None else row[columns.split].strip()
        if split not in SPLITS:
            raise ShardError(f"{where}: split {split!r}, expected one of {', '.join(SPLITS)}")
        if not (caption := row[columns.caption].strip()):
            raise ShardError(f"{where}: no caption; remove the line")
        if not (image := row[columns.image].strip()):
            raise ShardError(f"{where}: no image id; add it")
        return _Line(where, image, SPLITS[split], caption)


@dataclass(frozen=True)
class _Columns:
    """How many columns there are, and the positions of those that are read.

    ``usual`` is the split of all lines if there is no column for it.
    """

    count: int
    image: int
    caption: int
    split: int | None
    usual: str


@dataclass(frozen=True)
class _Line:
    """One line; ``where`` is its place, for messages."""

    where: str
    image: str
    split: str
    caption: str
