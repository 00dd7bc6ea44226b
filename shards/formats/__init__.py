"""Formats that shards can be built from: where captions come from, where features come from.

A format is one file in this folder: a class that takes the files and registers itself with
`caption_format` or `feature_format`. It is found by what its files look like.
"""

from __future__ import annotations

import glob
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from shards.schema import Array, ShardError


@dataclass(frozen=True)
class Annotation:
    """One image's captions: ``tokens`` run parallel to ``captions``; ``file_name`` is for people.

    ``width`` and ``height`` are pixels, 0 where the source does not know them.
    """

    image_id: int
    file_name: str
    split: str
    captions: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    width: int = 0
    height: int = 0


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """One image's features, shapes and types as in `shards.schema.Sample`.

    ``width`` and ``height`` are pixels, 0 where the source does not know them.
    """

    regions: Array
    boxes: Array
    classes: Array | None = None
    width: int = 0
    height: int = 0


class CaptionSource(Protocol):
    """Annotated images from files."""

    def __init__(self, files: Sequence[Path]) -> None: ...

    @classmethod
    def accepts(cls, files: Sequence[Path]) -> bool:
        """Whether the files look like this format."""

    def annotations(self) -> list[Annotation]:
        """All images, split train, val or test, in the files' order."""


class FeatureSource(Protocol):
    """Region features from files; picklable, opens its files when it reads."""

    def __init__(self, files: Sequence[Path]) -> None: ...

    @classmethod
    def accepts(cls, files: Sequence[Path]) -> bool:
        """Whether the files look like this format."""

    @property
    def dim(self) -> int:
        """The feature width F."""

    @property
    def image_ids(self) -> list[int]:
        """All images, in the files' order."""

    def __contains__(self, image_id: int) -> bool:
        """Whether the image has features."""

    def read(self, image_id: int) -> RegionFeatures:
        """One image's features."""


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


def find_files(pattern: str) -> list[Path]:
    """The files or folders that a path or a glob names, in the order of their names.

    Raises:
        ShardError: if there is none.
    """
    files = sorted(Path(name) for name in glob.glob(pattern))
    if not files:
        raise ShardError(f"{pattern}: no such file; check the path (quote a pattern with *)")
    return files


def recognise(
    formats: dict[str, type[_Format]], files: Sequence[Path]
) -> tuple[str, type[_Format]]:
    """Name and class of the format that the files are in.

    Raises:
        ShardError: if no format accepts them, or several do.
    """
    accepting = [name for name, format_ in formats.items() if format_.accepts(files)]
    if len(accepting) != 1:
        raise ShardError(
            f"{files[0]}: looks like {' and '.join(accepting) or 'no known format'}; "
            f"known are {', '.join(formats)}, see shards/README.md"
        )
    return accepting[0], formats[accepting[0]]


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
