"""A file is there whole or as it was before."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.atomic import atomic_write, remove_temporary_files


def test_interrupted_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"before"
    remove_temporary_files(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_name_appears_after_the_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all"
