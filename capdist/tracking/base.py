"""The contract of trackers, and the registry of them.

A tracker is one file: it sends what a run measures to a service, through the service's own package,
which is imported when the tracker is opened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from capdist.config.base import ConfigError
from capdist.config.registry import Registry
from capdist.errors import CapdistError
from shards.json_types import ImageId

#: Where runs appear in a service, unless its own environment variables say otherwise.
PROJECT = "capdist"


class TrackingError(CapdistError):
    """A service cannot be used."""


@dataclass(frozen=True)
class TrackedRun:
    """What a service is told about a run.

    Args:
        folder: of the run; its name is that of the run.
        config: as JSON.
        known: the id that the service gave to the run when it began; None: it begins now.
    """

    folder: Path
    config: Mapping[str, Any]
    known: str | None = None

    @property
    def name(self) -> str:
        return self.folder.resolve().name


@dataclass(frozen=True)
class ShownImage:
    """An image of a validation: its caption, and a PNG of what the words attended to.

    The PNG is None if there is neither a picture nor attention.
    """

    image: ImageId
    caption: str
    png: bytes | None


@dataclass(frozen=True)
class ValidationCaptions:
    """The captions of a validation by image id, and the few images that are shown."""

    split: str
    by_image: Mapping[ImageId, str]
    shown: Sequence[ShownImage]


class Tracker(ABC):
    """A run in a service; any exception of a method means that the service failed.

    Attributes:
        package: that is imported.
        run_id: the service's name of the run.
    """

    package: ClassVar[str]
    run_id: str

    @classmethod
    @abstractmethod
    def open(cls, run: TrackedRun) -> Self:
        """Begin the run in the service, or continue it.

        Raises:
            TrackingError: if the service does not answer, or does not know the user.
        """

    @abstractmethod
    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        """Numbers of the metrics log by name, each record with its ``step``.

        A resumed run sends some of them again, with the same values.
        """

    @abstractmethod
    def show(self, step: int, captions: ValidationCaptions) -> None:
        """The captions of the validation after a step."""

    @abstractmethod
    def scores(self, scores: Mapping[str, float]) -> None:
        """Final scores of the run by name."""

    @abstractmethod
    def close(self, *, done: bool) -> None:
        """Send the rest; ``done``: whether the run is complete, not only stopped."""


_TRACKERS: Registry[type[Tracker]] = Registry("tracker", "capdist.tracking")
register = _TRACKERS.register
registered = _TRACKERS.all


def find_tracker(name: str, where: str) -> type[Tracker]:
    """The tracker of a name; ``where`` says what named it, in messages.

    Raises:
        ConfigError: if there is none, or its package is not installed.
    """
    tracker = _TRACKERS.get(name, where)
    if find_spec(tracker.package) is None:
        raise ConfigError(
            f"{where}: {name} needs the package {tracker.package}, which is not installed; "
            f"pip install -e '.[{name}]', or set {where.rpartition(' ')[2]} to null"
        )
    return tracker
