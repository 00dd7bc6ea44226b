"""Fields of JSON files, for the formats that read such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic_core import from_json

from shards.schema import ShardError


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        ShardError: if it is none.
    """
    try:
        return from_json(path.read_bytes())
    except ValueError as error:
        raise ShardError(f"{path}: not JSON ({error}); download or write it again") from error


def field(where: str, record: Any, name: str, kind: type) -> Any:
    """A field of a record.

    Raises:
        ShardError: naming the record, ``where``, if the field lacks or is of another type.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        found = "nothing" if value is None else repr(value)
        raise ShardError(f"{where}: field {name!r} is {found}, expected a {kind.__name__}")
    return value
