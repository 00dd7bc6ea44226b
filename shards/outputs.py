"""Whether a result can be written, before the work that makes it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from capdist.errors import CapdistError

#: A page, which a full disk refuses, unlike an empty file.
_PROBE = bytes(4096)


def check_output_file(path: Path) -> None:
    """Refuse a file that can't be written; missing folders above it are made.

    Raises:
        CapdistError: if it is a folder.
        OSError: if the folder can't be made or written to, or its disk is full.
    """
    if path.is_dir():
        raise CapdistError(f"{path}: is a folder; give a file")
    if path.exists() and not path.is_file():
        return  # a device or a pipe
    check_output_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise CapdistError(
            f"{path}: can't be replaced; change its permissions, or give another path"
        )


def check_output_folder(path: Path) -> None:
    """Refuse a folder that can't be written to; it is made if it is missing.

    Raises:
        CapdistError: if it is a file.
        OSError: if it can't be made or written to, or its disk is full.
    """
    if path.exists() and not path.is_dir():
        raise CapdistError(f"{path}: is a file; give a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(_PROBE)
    except OSError as error:
        error.filename = str(path)
        raise
