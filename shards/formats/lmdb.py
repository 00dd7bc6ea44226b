"""Features from an LMDB database: the key is the image id as text, the value a npy or npz file.

The arrays are those of `shards.formats.arrays`. A database is a folder with ``data.mdb``, or one
file. Source: what self-critical.pytorch and its descendants pack their features into.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import image_id, read_archive
from shards.schema import ShardError

if TYPE_CHECKING:
    import lmdb

# The first page's header has 16 bytes, then comes 0xBEEFC0DE.
_MAGIC = slice(16, 20), b"\xde\xc0\xef\xbe"


@feature_format("lmdb")
class Lmdb:
    """Features from one database, which every process opens for itself."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        self._keys: dict[int, bytes] = {}
        self.bad: list[str] = []
        with _open(path).begin() as transaction:
            for key in transaction.cursor().iternext(keys=True, values=False):
                name = bytes(key).decode(errors="replace")
                number = image_id(name)
                if number is None:
                    self.bad.append(f"{path}: key {name[:40]!r} is no image id")
                else:
                    self._keys[number] = bytes(key)

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a folder with a database, or a file that begins as databases do."""
        file = path / "data.mdb" if path.is_dir() else path
        if not file.is_file():
            return False
        place, magic = _MAGIC
        with file.open("rb") as data:
            return data.read(place.stop)[place] == magic

    @property
    def image_ids(self) -> list[int]:
        """All images, in the order of the keys."""
        return list(self._keys)

    def read(self, image_id: int) -> RegionFeatures:
        """One image's features."""
        with _open(self.paths[0]).begin() as transaction:
            value = transaction.get(self._keys[image_id])
        return read_archive(f"{self.paths[0]}: image {image_id}", io.BytesIO(value or b""))


@lru_cache(maxsize=8)
def _open(path: Path) -> lmdb.Environment:
    try:
        import lmdb
    except ImportError as error:
        raise ShardError(
            f"{path}: LMDB databases need lmdb; pip install 'capdist[formats]'"
        ) from error
    try:
        found = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False)
    except lmdb.Error as error:
        raise ShardError(f"{path}: not a whole LMDB database ({error}); copy it again") from error
    # Reading a page that the file has lost would end the process, not raise.
    expected = (found.info()["last_pgno"] + 1) * found.stat()["psize"]
    size = (path / "data.mdb" if path.is_dir() else path).stat().st_size
    if size < expected:
        raise ShardError(f"{path}: {size} bytes, but its pages need {expected}; copy it again")
    return found
