"""Untrusted feature and caption files: they run no code, read no other file, take little memory."""

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


class RunsCommand:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["npy", "npz", "pickle"])
def test_nothing_is_unpickled(kind: str, tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "7.npz"
    objects = np.array([RunsCommand(made)], dtype=object)
    buffer = io.BytesIO()
    if kind == "npz":
        np.savez(buffer, imgid=objects, feat=objects, scale=objects)
    elif kind == "npy":
        np.save(buffer, objects)
    else:
        buffer.write(objects.dumps())
    path.write_bytes(buffer.getvalue())
    for file in (path, io.BytesIO(buffer.getvalue())):  # the latter as with LMDB
        with pytest.raises(ShardError, match=r"image 7: damaged, or not an npy or npz file \("):
            read_archive("image 7", file)
    with pytest.raises(ShardError, match=r"7.npz: damaged, or not an npy or npz file \("):
        NpzBlocks(path)
    assert not made.exists()


def test_archive_that_expands_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MAX_IMAGE_BYTES", 2**20)
    np.savez_compressed(tmp_path / "7.npz", features=np.zeros((2**10, 2**10), np.float32))
    assert (tmp_path / "7.npz").stat().st_size < 2**13
    with pytest.raises(ShardError, match="image 7: 4194432 bytes, expected one image's"):
        read_archive("image 7", tmp_path / "7.npz")


def test_array_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**30, 2**20)}
    with (tmp_path / "7.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    data = (tmp_path / "7.npy").read_bytes()
    for file in (tmp_path / "7.npy", io.BytesIO(data)):
        with pytest.raises(ShardError, match="image 7: damaged, or not an npy"):
            read_archive("image 7", file)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"imgid": 7}, "7.npz: damaged, or not an npy"),
        ({"imgid": [[7]]}, "7.npz: damaged, or not an npy"),
        ({"boxes": np.ones(())}, "7.npz: image 7: damaged, or not an npy"),
        ({"class_id": np.ones((1, 2, 3)), "class_prob": np.ones((1, 2, 4))}, "image 7: damaged"),
        ({"feat": np.full((1, 2, 3), "x")}, "image 7: damaged, or not an npy"),
    ],
)
def test_invalid_blocks_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    good = {"imgid": [7], "feat": np.ones((1, 2, 3)), "scale": np.ones(3)}
    np.savez(tmp_path / "7.npz", **{**good, "boxes": np.ones((1, 2, 4)), **changed})
    with pytest.raises(ShardError, match=message):
        NpzBlocks(tmp_path / "7.npz").read(7)


@pytest.mark.parametrize("name", ["features", "boxes", "cls_prob"])
def test_arrays_of_text_are_refused(tmp_path: Path, name: str) -> None:
    arrays = {"features": np.ones((2, 3)), "boxes": np.ones((2, 4)), "cls_prob": np.ones((2, 5))}
    np.savez(tmp_path / "7.npz", **{**arrays, name: np.full((2, 4), "x")})
    with pytest.raises(ShardError, match="image 7: an array of dtype <U1, expected numbers"):
        read_archive("image 7", tmp_path / "7.npz")


def test_hdf5_reads_no_other_file(tmp_path: Path) -> None:
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
    features = Hdf5(tmp_path / "evil.h5")
    for image in (1, 2, 3, 4):
        with pytest.raises(ShardError, match=f"image {image}: {image}_features is in another"):
            features.read(image)
    with pytest.raises(ShardError, match=r"image 5: \d+ bytes, expected one image's"):
        features.read(5)
    with pytest.raises(ShardError, match="image 6: damaged"):
        features.read(6)


def test_xml_entities_are_refused(tmp_path: Path) -> None:
    path, _ = flickr30k_entities(tmp_path)
    document_type = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {b} "{10 * f"&{a};"}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    (path / "Annotations/42.xml").write_text(document_type + "]><annotation>&j;</annotation>")
    with pytest.raises(ShardError, match=r"42.xml: not a valid annotation \(has a document"):
        Flickr30kEntities(path).annotations()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": "\\ud800"}', "\xff", "{", "[1,]"])
def test_invalid_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ShardError, match=r"a.json: not JSON \("):
        read_json(tmp_path / "a.json")


def test_ids_of_any_length_are_bad(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"9" * 5000 + b"\t1\n")
    source = BottomUpTsv(tmp_path / "a.tsv")
    assert source.image_ids == []
    assert "image id '99999999999999999999', expected 1 to 255 characters" in source.bad[0]
