"""Uploads that are no photographs, from a generator: all are answered, none ends the server."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from shards.pictures import ENDINGS
from tests.support.photographs import photograph
from tests.support.serving import Running

UPLOADS = 200
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def encoded(chance: random.Random) -> bytes:
    file = io.BytesIO()
    size = (chance.randint(1, 64), chance.randint(1, 64))
    photograph(chance.randrange(99), size).save(file, chance.choice(FORMATS))
    return file.getvalue()


def truncated(chance: random.Random) -> bytes:
    whole = encoded(chance)
    return whole[: chance.randrange(len(whole))]


def flipped(chance: random.Random) -> bytes:
    data = bytearray(encoded(chance))
    for _ in range(chance.randint(1, 30)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def bomb(chance: random.Random) -> bytes:
    """A small file with a huge picture: claimed, or really in it."""
    side = chance.choice((7_200, 40_000, 2**31 - 1))
    return png(side, side, zlib.compress(bytes(10**6)))


def bmp_of_any_size(chance: random.Random) -> bytes:
    data = bytearray(encoded_as("BMP", chance))
    data[18:26] = struct.pack("<ii", chance.randint(-(2**31), 2**31 - 1), 2**30)
    return bytes(data)


def gif_of_any_size(chance: random.Random) -> bytes:
    data = bytearray(encoded_as("GIF", chance))
    data[6:10] = b"\xff\xff\xff\xff"
    return bytes(data)


def encoded_as(kind: str, chance: random.Random) -> bytes:
    file = io.BytesIO()
    photograph(chance.randrange(99)).save(file, kind)
    return file.getvalue()


def polyglot(chance: random.Random) -> bytes:
    """A picture that is also a zip file, or a page."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.html", "<script>alert(1)</script>")
    return encoded(chance) + chance.choice((file.getvalue(), b"<script>alert(1)</script>"))


def text(chance: random.Random) -> bytes:
    return chance.choice(
        (
            b"",
            b"\0",
            b"no picture",
            b"%PDF-1.7\n%%EOF",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage",
            b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
            b"P6\n99999999 99999999\n255\n",
            b"II*\0\x08\0\0\0" + b"\xff" * 64,
            "é".encode() * 1000,
        )
    )


def noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randint(1, 5000))


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    truncated,
    flipped,
    bomb,
    bmp_of_any_size,
    gif_of_any_size,
    polyglot,
    text,
    noise,
)


def hostile_uploads() -> Iterator[tuple[str, bytes, str]]:
    """File names, contents and announced types."""
    chance = random.Random(0)
    names = ("../../etc/passwd", "a\tb.jpg", "x" * 3000, "ü.png", "photo" + min(ENDINGS))
    types = ("image/jpeg", "text/html", "application/octet-stream", "x/" + "y" * 500)
    for number in range(UPLOADS):
        make = KINDS[number % len(KINDS)]
        yield chance.choice(names), make(chance), chance.choice(types)


def test_hostile_uploads_are_answered(server: Running, photographs: list[Path]) -> None:
    statuses = []
    for upload in hostile_uploads():
        answer = server.caption(upload)
        statuses.append(answer.status_code)
        found = answer.json()
        if answer.status_code == 200:
            assert found["caption"]
        else:
            assert answer.status_code in (413, 415, 422), found
            assert "\n" not in found["error"]
            assert " at 0x" not in found["error"]
    assert len(statuses) == UPLOADS
    assert {200, 413, 415, 422} <= set(statuses)
    assert server.caption(photographs[0].read_bytes()).status_code == 200
    assert server.service.pending == 0
