"""Feature and caption files from anybody: none runs anything, reads another file or grows."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.formats import arrays
from shards.formats.arrays import read_archive
from shards.formats.bottom_up_tsv import BottomUpTsv
from shards.formats.flickr30k_entities import Flickr30kEntities
from shards.formats.hdf5 import Hdf5
from shards.formats.npz_blocks import NpzBlocks
from shards.formats.records import read_json
from shards.schema import ShardError
from tests.support.format_files import flickr30k_entities


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["npy", "npz", "pickle"])
def test_nothing_is_unpickled(kind: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "7.npz"
    evil = np.array([Evil(mark)], dtype=object)
    buffer = io.BytesIO()
    if kind == "npz":
        np.savez(buffer, imgid=evil, feat=evil, scale=evil)
    elif kind == "npy":
        np.save(buffer, evil)
    else:
        buffer.write(evil.dumps())
    path.write_bytes(buffer.getvalue())
    for where in (path, io.BytesIO(buffer.getvalue())):  # LMDB's values are the latter
        with pytest.raises(ShardError, match=r"image 7: not a whole npy or npz file \("):
            read_archive("image 7", where)
    with pytest.raises(ShardError, match=r"7.npz: not a whole npy or npz file \("):
        NpzBlocks(path)
    assert not mark.exists()


def test_an_archive_that_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MOST", 2**20)
    np.savez_compressed(tmp_path / "7.npz", features=np.zeros((2**10, 2**10), np.float32))
    assert (tmp_path / "7.npz").stat().st_size < 2**13
    with pytest.raises(ShardError, match="image 7: 4194432 bytes, expected one image's"):
        read_archive("image 7", tmp_path / "7.npz")


def test_an_array_that_is_not_there(tmp_path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**30, 2**20)}
    with (tmp_path / "7.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    data = (tmp_path / "7.npy").read_bytes()
    for where in (tmp_path / "7.npy", io.BytesIO(data)):
        with pytest.raises(ShardError, match="image 7: not a whole npy"):
            read_archive("image 7", where)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"imgid": 7}, "7.npz: not a whole npy"),
        ({"imgid": [[7]]}, "7.npz: not a whole npy"),
        ({"boxes": np.ones(())}, "7.npz: image 7: not a whole npy"),
        ({"class_id": np.ones((1, 2, 3)), "class_prob": np.ones((1, 2, 4))}, "image 7: not a"),
        ({"feat": np.full((1, 2, 3), "x")}, "image 7: not a whole npy"),
    ],
)
def test_odd_blocks(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    good = {"imgid": [7], "feat": np.ones((1, 2, 3)), "scale": np.ones(3)}
    np.savez(tmp_path / "7.npz", **{**good, "boxes": np.ones((1, 2, 4)), **changed})
    with pytest.raises(ShardError, match=message):
        NpzBlocks(tmp_path / "7.npz").read(7)


@pytest.mark.parametrize("name", ["features", "boxes", "cls_prob"])
def test_arrays_of_what_is_no_number(tmp_path: Path, name: str) -> None:
    arrays = {"features": np.ones((2, 3)), "boxes": np.ones((2, 4)), "cls_prob": np.ones((2, 5))}
    np.savez(tmp_path / "7.npz", **{**arrays, name: np.full((2, 4), "x")})
    with pytest.raises(ShardError, match="image 7: an array of <U1, expected numbers"):
        read_archive("image 7", tmp_path / "7.npz")


def test_hdf5_stays_in_its_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["1_features"] = np.ones((2, 3), np.float32)
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file["1_features"] = h5py.ExternalLink("other.h5", "1_features")
        raw = [("secret", 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("2_features", (2, 3), "f4", external=raw)
        layout = h5py.VirtualLayout((2, 3), "f4")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "1_features", (2, 3))
        file.create_virtual_dataset("3_features", layout)
        file["4_features"] = h5py.SoftLink("/5_features")
        file.create_dataset("5_features", (2**30, 2**20), "f4", chunks=(1, 16))
        file.create_group("6_features")
    found = Hdf5(tmp_path / "evil.h5")
    for image in (1, 2, 3, 4):
        with pytest.raises(ShardError, match=f"image {image}: {image}_features lies in another"):
            found.read(image)
    with pytest.raises(ShardError, match=r"image 5: \d+ bytes, expected one image's"):
        found.read(5)
    with pytest.raises(ShardError, match="image 6: damaged"):
        found.read(6)


def test_entities_of_xml_are_refused(tmp_path: Path) -> None:
    path, _ = flickr30k_entities(tmp_path)
    laughs = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {b} "{10 * f"&{a};"}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    (path / "Annotations/42.xml").write_text(laughs + "]><annotation>&j;</annotation>")
    with pytest.raises(ShardError, match=r"42.xml: not an annotation \(it declares a document"):
        Flickr30kEntities(path).annotations()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": "\\ud800"}', "\xff", "{", "[1,]"])
def test_json_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ShardError, match=r"a.json: not JSON \("):
        read_json(tmp_path / "a.json")


def test_ids_that_no_machine_word_holds(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"9" * 5000 + b"\t1\n")
    found = BottomUpTsv(tmp_path / "a.tsv")
    assert found.image_ids == []
    assert "image id '99999999999999999999' is no number" in found.bad[0]
