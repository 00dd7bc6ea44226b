"""Thumbnails of a split's pictures as data URLs."""

from __future__ import annotations

import base64
import io
from itertools import islice

from PIL import Image

from shards.manifest import Manifest

#: Longest side in pixels, and WebP's quality: about 15 kB for a photograph.
SIDE, QUALITY = 448, 75


def thumbnails(manifest: Manifest, split: str, count: int) -> dict[str, str]:
    """Data URLs of the first pictures by key; none if the shards have no pictures."""
    return {key: thumbnail(data) for key, data in islice(manifest.read(split, "png"), count)}


def thumbnail(picture: bytes) -> str:
    """A data URL of a file's picture, no larger than `SIDE` each way."""
    with Image.open(io.BytesIO(picture)) as opened:
        return data_url(opened.convert("RGB"), SIDE)


def data_url(picture: Image.Image, side: int) -> str:
    """A data URL of a WebP file no larger than ``side`` each way."""
    small = picture.copy()
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
