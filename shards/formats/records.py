"""Reads fields of JSON files, for the formats that use them."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from shards.json_types import ImageId
from shards.schema import ShardError

_IMAGE_ID: TypeAdapter[ImageId] = TypeAdapter(ImageId)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ShardError: if it is not JSON.
    """
    try:
        return from_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise ShardError(f"{path}: not JSON ({error}); download it again, or correct it") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        ShardError: if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ShardError(f"{path}: not UTF-8 ({error}); convert it, e.g. with iconv") from error


def get_field(where: str, record: Any, name: str, kind: type) -> Any:
    """A field of a record.

    Args:
        where: prefix of messages.
        record: a JSON object.
        name: of the field.
        kind: expected type of its value.

    Raises:
        ShardError: if the field is missing or of another type.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        problem = "is missing" if value is None else f"is {value!r}"
        raise ShardError(f"{where}: field {name!r} {problem}, expected type {kind.__name__}")
    return value


def get_image_id(where: str, record: Any, name: str) -> ImageId:
    """A field that is an image id, a number or a text; the other arguments are `get_field`'s.

    Raises:
        ShardError: if the field is missing or no image id.
    """
    value = record.get(name) if isinstance(record, dict) else None
    try:
        return _IMAGE_ID.validate_python(value, strict=True)
    except ValidationError:
        problem = "is missing" if value is None else f"is {value!r}"
        raise ShardError(
            f"{where}: field {name!r} {problem}, expected an image id: a number or a text"
        ) from None
