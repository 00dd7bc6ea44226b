"""What a build was given, in a file that is written before its first shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from shards.json_types import parse_json
from shards.schema import ShardError

BUILD_SETTINGS = "build.json"

_SETTINGS = TypeAdapter(dict[str, Any])


def load_build_settings(path: Path) -> dict[str, Any] | None:
    """The settings of the build or the added feature set that was begun here, None without one.

    Raises:
        ShardError: if the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return parse_json(_SETTINGS, path.read_bytes())
    except ValueError as error:
        raise ShardError(
            f"{path}: {error}, so what was begun here is not known; delete it and the tars that "
            "were written with it"
        ) from None
