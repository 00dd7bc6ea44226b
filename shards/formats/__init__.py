"""Formats that shards can be built from: where captions come from, where features come from.

A format is one file in this folder: a class that takes a file or folder and registers itself with
`caption_format` or `feature_format`. It is found by what the file or folder looks like.
"""

from __future__ import annotations

import glob
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from shards.schema import Array, Phrase, ShardError


@dataclass(frozen=True)
class Annotation:
    """One image's captions: ``tokens`` run parallel to ``captions``; ``file_name`` is for people.

    ``width`` and ``height`` are pixels, 0 where the source does not know them; ``grounding`` is
    None where it does not know of any.
    """

    image_id: int
    file_name: str
    split: str
    captions: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    width: int = 0
    height: int = 0
    grounding: tuple[Phrase, ...] | None = None


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """One image's features.

    ``regions`` (R, F) floats; ``boxes`` (R, 4) x1 y1 x2 y2, as shares of the image unless
    ``pixels``, None where the source knows none; ``classes`` as in `shards.schema.Sample`;
    ``width`` and ``height`` are pixels, 0 where the source does not know them; ``place`` says
    where in its file the image is, if its id does not.
    """

    regions: Array
    boxes: Array | None = None
    classes: Array | None = None
    width: int = 0
    height: int = 0
    pixels: bool = False
    place: str = ""


class CaptionSource(Protocol):
    """Annotated images from one file or folder."""

    def __init__(self, path: Path) -> None: ...

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it looks like this format."""

    def annotations(self) -> list[Annotation]:
        """All images, split train, val or test, in the file's order."""


class FeatureSource(Protocol):
    """Region features from one file or folder; picklable, opens its files when it reads."""

    def __init__(self, path: Path) -> None: ...

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it looks like this format."""

    @property
    def paths(self) -> list[Path]:
        """The files and folders that are read."""

    @property
    def image_ids(self) -> list[int]:
        """All images, in the file's order."""

    @property
    def bad(self) -> list[str]:
        """What holds no image that could be read: place and reason, a line each."""

    def read(self, image_id: int) -> RegionFeatures:
        """One image's features.

        Raises:
            ShardError: naming the place in the file and what is wrong with it.
        """


#: Digits of a number that 64 bits hold whatever they are.
DIGITS = 18

CAPTION_FORMATS: dict[str, type[CaptionSource]] = {}
FEATURE_FORMATS: dict[str, type[FeatureSource]] = {}

_Captions = TypeVar("_Captions", bound=type[CaptionSource])
_Features = TypeVar("_Features", bound=type[FeatureSource])
_Format = TypeVar("_Format", CaptionSource, FeatureSource)


def caption_format(name: str) -> Callable[[_Captions], _Captions]:
    """Register a class as a format of captions."""

    def register(cls: _Captions) -> _Captions:
        CAPTION_FORMATS[name] = cls
        return cls

    return register


def feature_format(name: str) -> Callable[[_Features], _Features]:
    """Register a class as a format of region features."""

    def register(cls: _Features) -> _Features:
        FEATURE_FORMATS[name] = cls
        return cls

    return register


def find_files(patterns: str | Sequence[str]) -> list[Path]:
    """The files or folders that paths or globs name, those of each in the order of their names.

    Raises:
        ShardError: if a path or glob names none.
    """
    found = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        files = sorted(Path(name) for name in glob.glob(pattern))
        if not files:
            raise ShardError(f"{pattern}: no such file; check the path (quote a pattern with *)")
        found += files
    return found


def recognise(formats: dict[str, type[_Format]], path: Path) -> tuple[str, type[_Format]]:
    """Name and class of the format that a file or folder is in.

    Raises:
        ShardError: if no format accepts it, or several do.
    """
    accepting = [name for name, format_ in formats.items() if format_.accepts(path)]
    if len(accepting) != 1:
        raise ShardError(
            f"{path}: looks like {' and '.join(accepting) or 'no known format'}; "
            f"known are {', '.join(formats)}, see shards/README.md"
        )
    return accepting[0], formats[accepting[0]]


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
