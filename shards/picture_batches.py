"""The features of pictures, a batch at a time, while threads read the pictures of the next one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL.Image import Image

from shards.extractors import PictureFeatures
from shards.formats import RegionFeatures
from shards.pictures import PictureError, read_picture, to_rgb
from shards.schema import Array
from shards.storage import to_float16

#: Pictures that go through the network together.
BATCH = 32
# Threads that decode pictures, each of which may take `pictures.MAX_PIXELS`.
_THREADS = 4


@dataclass(frozen=True, eq=False)
class Extracted:
    """The features of one picture, with boxes in [0, 1], or what is wrong with its file."""

    name: str
    features: RegionFeatures | None
    problem: str = ""


def features_of(
    features: PictureFeatures, pictures: Mapping[str, Path | Image], batch: int = BATCH
) -> Iterator[list[Extracted]]:
    """The features of each batch of pictures; threads read the next batch meanwhile.

    Args:
        features: the backbone.
        pictures: paths, or pictures in memory, by name.
        batch: pictures at a time.
    """
    left = iter(pictures.items())
    with ThreadPoolExecutor(_THREADS) as threads:

        def start() -> list[tuple[str, Future[PreparedPicture]]]:
            return [
                (name, threads.submit(_read, features, path)) for name, path in islice(left, batch)
            ]

        reading = start()
        while reading:
            following = start()
            yield _run(features, reading)
            reading = following


@dataclass(frozen=True, eq=False)
class PreparedPicture:
    """A picture's pixels for the network, and its own size."""

    pixels: Array
    width: int
    height: int

    @classmethod
    def of(cls, features: PictureFeatures, picture: Image) -> PreparedPicture:
        """What the backbone reads of a picture in RGB."""
        return cls(features.prepare(picture), picture.width, picture.height)


def extract(features: PictureFeatures, prepared: Sequence[PreparedPicture]) -> list[RegionFeatures]:
    """The features of pictures as shards store them, in one call of the network."""
    return [
        RegionFeatures(
            to_float16(made.regions), made.boxes, made.classes, picture.width, picture.height
        )
        for made, picture in zip(features([p.pixels for p in prepared]), prepared, strict=True)
    ]


def _read(features: PictureFeatures, given: Path | Image) -> PreparedPicture:
    picture = read_picture(given) if isinstance(given, Path) else _in_memory(given)
    return PreparedPicture.of(features, picture)


def _in_memory(given: Image) -> Image:
    try:
        return to_rgb(given)
    except ValueError as error:
        raise PictureError(f"picture in memory: {error}; convert it to RGB") from error


def _run(
    features: PictureFeatures, reading: list[tuple[str, Future[PreparedPicture]]]
) -> list[Extracted]:
    read: dict[str, PreparedPicture] = {}
    problems: dict[str, str] = {}
    for name, future in reading:
        try:
            read[name] = future.result()
        except PictureError as error:
            problems[name] = str(error)
    made = extract(features, list(read.values())) if read else []
    by_name = dict(zip(read, made, strict=True))
    return [Extracted(name, by_name.get(name), problems.get(name, "")) for name, _ in reading]
