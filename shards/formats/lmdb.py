"""Features from an LMDB database: the key is the image id as text, the value an npy or npz file.

The arrays are those of `shards.formats.arrays`. Keys such as ``__len__`` are not images. A database
is a folder with ``data.mdb``, or one file. Source: what self-critical.pytorch and its descendants
pack their features into.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import read_archive
from shards.image_ids import Entries
from shards.json_types import ImageId
from shards.schema import ShardError

if TYPE_CHECKING:
    import lmdb

# The 16 bytes of the first page's header are followed by 0xBEEFC0DE.
_MAGIC_BYTES, _MAGIC = slice(16, 20), b"\xde\xc0\xef\xbe"


@feature_format("lmdb")
class Lmdb:
    """Features from one database, which each process opens by itself."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        keys = Entries[bytes](lambda key: f"key {key.decode()!r}")
        with _open(path).begin() as transaction:
            for key in map(bytes, transaction.cursor().iternext(keys=True, values=False)):
                name = key.decode(errors="replace")
                if not (name.startswith("__") and name.endswith("__")):
                    keys.add(f"{path}: key {name[:40]!r}", name, key)
        self._keys, self.bad = keys.by_id, keys.bad

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a folder with a database, or a file with the signature of one."""
        file = path / "data.mdb" if path.is_dir() else path
        if not file.is_file():
            return False
        with file.open("rb") as data:
            return data.read(_MAGIC_BYTES.stop)[_MAGIC_BYTES] == _MAGIC

    @property
    def image_ids(self) -> list[ImageId]:
        return list(self._keys)

    def read(self, image_id: ImageId) -> RegionFeatures:
        with _open(self.paths[0]).begin() as transaction:
            value = transaction.get(self._keys[image_id])
        return read_archive(f"{self.paths[0]}: image {image_id}", io.BytesIO(value or b""))


@lru_cache(maxsize=8)
def _open(path: Path) -> lmdb.Environment:
    try:
        import lmdb
    except ImportError as error:
        raise ShardError(
            f"{path}: LMDB databases need lmdb; install it with: pip install 'capdist[formats]'"
        ) from error
    try:
        database = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False)
    except lmdb.Error as error:
        raise ShardError(
            f"{path}: damaged, or not an LMDB database ({error}); copy it again"
        ) from error
    # Reading a page after the end of the file would end the process by SIGBUS.
    expected = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    size = (path / "data.mdb" if path.is_dir() else path).stat().st_size
    if size < expected:
        raise ShardError(
            f"{path}: truncated: {size} bytes, expected at least {expected}; copy it again"
        )
    return database
