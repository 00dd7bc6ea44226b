"""Backbones that make region features from pictures.

A backbone is one module in this folder: a class that registers itself with `extractor`. Its name on
the command line is the registered one, followed by ``:SOURCE`` for those that load any model of a
library: ``transformers:FOLDER``. Heavy packages are imported when a backbone is opened.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image

from shards.extractor_spec import ExtractorSpec, Preprocessing, Projection
from shards.formats import RegionFeatures
from shards.schema import Array, ShardError


class Extractor(Protocol):
    """A backbone with its weights, on a GPU if there is one.

    Attributes:
        weights: SHA-256 of the weights.
        width: D, of its regions.
        preprocessing: what `prepare` does.
    """

    weights: str
    width: int
    preprocessing: Preprocessing

    def __init__(self, source: str) -> None:
        """Load the weights.

        Args:
            source: what follows the colon in the backbone's name; empty if there is none.

        Raises:
            ShardError: if a package or the weights are missing, or the source is not usable.
        """

    def prepare(self, picture: Image.Image) -> Array:
        """The pixels that the network reads of an RGB picture; called in threads."""

    def __call__(self, prepared: Sequence[Array]) -> list[RegionFeatures]:
        """Regions (R, D), boxes (R, 4) in [0, 1] and, optionally, classes of each picture."""


_Extractor = TypeVar("_Extractor", bound=type[Extractor])

EXTRACTORS: dict[str, type[Extractor]] = {}


def extractor(name: str) -> Callable[[_Extractor], _Extractor]:
    """Register a class as a backbone."""

    def register(cls: _Extractor) -> _Extractor:
        EXTRACTORS[name] = cls
        return cls

    return register


@dataclass(frozen=True, eq=False)
class PictureFeatures:
    """Makes the features of pictures: a backbone and what follows it."""

    extractor: Extractor
    spec: ExtractorSpec

    @classmethod
    def open(cls, backbone: str, projection: Path | None = None) -> PictureFeatures:
        """A backbone by its name, with a projection if a file of one is given.

        Raises:
            ShardError: if there is no such backbone, it can't be loaded, or the projection does
                not fit it.
        """
        backbone = _with_whole_path(backbone)
        loaded = open_backbone(backbone)
        projected = Projection.load(projection) if projection else None
        try:
            spec = ExtractorSpec(
                backbone, loaded.weights, loaded.width, loaded.preprocessing, projected
            )
        except ValueError as error:
            raise ShardError(f"{projection}: {error}; give the one of this backbone") from error
        return cls(loaded, spec)

    @classmethod
    def reopen(cls, spec: ExtractorSpec) -> PictureFeatures:
        """The extractor of existing features.

        Raises:
            ShardError: if the backbone can't be loaded, or has other weights or preprocessing now.
        """
        loaded = open_backbone(spec.backbone)
        for part, found, made in (
            ("weights", loaded.weights, spec.weights),
            ("preprocessing", loaded.preprocessing, spec.preprocessing),
        ):
            if found != made:
                raise ShardError(
                    f"backbone {spec.backbone!r}: {part} {found}, but the features were made with "
                    f"{made}; install the version that made them"
                )
        return cls(loaded, spec)

    def prepare(self, picture: Image.Image) -> Array:
        """As `Extractor.prepare`."""
        return self.extractor.prepare(picture)

    def __call__(self, prepared: Sequence[Array]) -> list[RegionFeatures]:
        """Regions (R, F), boxes and classes of each picture."""
        return [
            replace(features, regions=self.spec.finish(features.regions))
            for features in self.extractor(prepared)
        ]


def open_backbone(name: str) -> Extractor:
    """The backbone of this name.

    Raises:
        ShardError: if there is none, or it can't be loaded.
    """
    kind, colon, source = name.partition(":")
    if kind not in EXTRACTORS:
        raise ShardError(f"no backbone {name!r}, expected one of {', '.join(sorted(EXTRACTORS))}")
    if bool(colon) != bool(source):
        raise ShardError(f"backbone {name!r}: nothing after the colon; give {kind}:MODEL")
    return EXTRACTORS[kind](source)


def _with_whole_path(backbone: str) -> str:
    """The name of a backbone, which is looked up later from other folders."""
    kind, _, source = backbone.partition(":")
    is_folder = bool(source) and Path(source).is_dir()
    return f"{kind}:{Path(source).resolve()}" if is_folder else backbone


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
