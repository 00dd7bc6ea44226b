"""Reads the files of pictures, whoever made them: every failure is one line, none ends the process.

A picture is read as people see it: turned as its EXIF data says, the first frame of an animation,
on white where it is transparent, in RGB.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.schema import ShardError

#: Endings of the files that are taken for pictures in a folder.
ENDINGS = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm")
)
#: The largest picture that is decoded: 384 MB in RGB. A small file can expand to any size.
MAX_PIXELS = 128_000_000

# Others are not needed, and some start programs: EPS runs Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
_WHITE = (255, 255, 255)

# MAX_PIXELS takes the place of Pillow's warning, which it gives from 89 million pixels on.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PictureError(ShardError):
    """A file that can't be read as a picture; the message names it."""


class PictureFormatError(PictureError):
    """The first bytes are not those of a format that is read."""


class PictureSizeError(PictureError):
    """It has more pixels than are decoded."""


def read_picture(path: Path) -> Image.Image:
    """The picture in a file, in RGB.

    Raises:
        PictureError: if it is no file, of another format, damaged, too large, or has samples of
            more than 16 bits.
    """
    check_is_file(path)
    return decode_picture(path, str(path))


def decode_picture(file: Path | BinaryIO, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a file that is at hand, in RGB.

    Args:
        file: a path, or an open file.
        name: of the file, for messages.
        max_pixels: the largest picture that is decoded.

    Raises:
        PictureError: as `read_picture` does.
    """
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with Image.open(file, formats=formats) as picture:
            if picture.width * picture.height > max_pixels:
                raise _too_large(name, f"{picture.width} × {picture.height}", max_pixels)
            return to_rgb(picture)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, "too many", max_pixels) from error
    except Exception as error:  # Pillow's decoders raise many kinds
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format" if unknown else _one_line(error)
        raise (PictureFormatError if unknown else PictureError)(
            f"{name}: damaged, or not a picture that can be read "
            f"({reason}); copy it again, or convert it to JPEG or PNG"
        ) from error


def check_is_file(path: Path) -> None:
    """Refuse a path that is not a file; a pipe, for instance, might never end.

    Raises:
        PictureError: naming it.
    """
    if not path.is_file():
        reason = "not a file" if path.exists() else "no such file"
        raise PictureError(f"{path}: {reason}; give the path of a picture")


def to_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode as people see it, in RGB; its first frame if it is animated.

    Raises:
        ValueError: if its samples have more than 16 bits, so that black and white are unknown.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"samples of mode {picture.mode}, expected at most 16 bits")
    if picture.has_transparency_data:
        shown = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, _WHITE), shown).convert("RGB")
    return picture.convert("RGB")


def find_pictures(folder: Path) -> dict[str, Path]:
    """The files of a folder that may be pictures, also in folders below, by name, sorted.

    A name is the path within the folder, with slashes; hidden files are not taken.

    Raises:
        PictureError: if the folder does not exist, or has none.
    """
    if not folder.is_dir():
        raise PictureError(f"{folder}: no such folder; give the folder of the pictures")
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.suffix.lower() in ENDINGS and not hidden:
            found[name.as_posix()] = path
    if not found:
        endings = ", ".join(sorted(ENDINGS))
        raise PictureError(f"{folder}: no pictures, expected files that end in one of {endings}")
    return found


def _too_large(name: str, size: str, max_pixels: int) -> PictureSizeError:
    return PictureSizeError(
        f"{name}: {size} pixels, expected at most {max_pixels:,} in total; make it smaller"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
