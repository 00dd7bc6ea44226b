"""Pictures are read as people see them; files that are no pictures are refused in one line."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.pictures import MAX_PIXELS, PictureError, find_pictures, read_picture

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def top_red() -> Image.Image:
    """Red above green, 4 × 8 pixels."""
    picture = Image.new("RGB", (4, 8), GREEN)
    picture.paste(RED, (0, 0, 4, 4))
    return picture


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise by 90 degrees
    top_red().save(tmp_path / "turned.png", exif=exif)
    read = read_picture(tmp_path / "turned.png")
    assert read.size == (8, 4)
    assert (read.getpixel((7, 0)), read.getpixel((0, 0))) == (RED, GREEN)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "YCbCr", "I;16"])
def test_all_colour_spaces_become_rgb(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((8, 4), 65535, np.uint16))
    else:
        picture = Image.new("RGB", (4, 8), WHITE).convert(mode)
    ending = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    picture.save(tmp_path / f"picture.{ending}")
    read = read_picture(tmp_path / f"picture.{ending}")
    assert read.mode == "RGB"
    assert read.getpixel((2, 2)) == WHITE


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 4), 0x8000, np.uint16)).save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png").getpixel((0, 0)) == (128, 128, 128)


def test_transparent_pixels_are_white_whatever_colour_they_hide(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 8), (*RED, 0)).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png").getpixel((0, 0)) == WHITE


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 8), colour) for colour in (GREEN, RED)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "moving.gif").getpixel((0, 0)) == GREEN


def test_a_picture_of_100_megapixels_is_read(tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000), 1).save(tmp_path / "large.png")
    assert read_picture(tmp_path / "large.png").size == (10_000, 10_000)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file of RGB with these numbers in its header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "jpeg")
    path.write_bytes(path.read_bytes()[:-800])


def postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")


def floats(path: Path) -> None:
    Image.fromarray(np.ones((8, 4), np.float32)).save(path, "tiff")


HOSTILE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a picture"),
    "truncated": truncated,
    "without pixels": lambda path: path.write_bytes(png(64, 64)),
    "zero width": lambda path: path.write_bytes(png(0, 64)),
    "postscript": postscript,
    "floats": floats,
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "missing": lambda path: None,
    "large": lambda path: path.write_bytes(png(MAX_PIXELS // 1000 + 1, 1000)),
    "bomb": lambda path: path.write_bytes(png(2**31 - 1, 2**31 - 1, bytes(10**7))),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo.jpg"
    HOSTILE[kind](path)
    with pytest.raises(PictureError) as refused:
        read_picture(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)
    if kind in ("large", "bomb"):
        assert "expected at most 128,000,000 in total" in str(refused.value)


def test_a_folder_is_searched_for_pictures_by_their_endings(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("b.PNG", "a.jpeg", "below/c.webp", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert list(find_pictures(tmp_path)) == ["a.jpeg", "b.PNG", "below/c.webp"]
    with pytest.raises(PictureError, match="no such folder"):
        find_pictures(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match="no pictures, expected files that end in"):
        find_pictures(tmp_path / "empty")
