"""The classes of regions as shards keep them, from those that feature files have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shards.schema import Array

BACKGROUND = "background"
#: Likeliest classes of a region that are kept by default.
CLASSES_KEPT = 5


@dataclass(frozen=True)
class ClassVectors:
    """Chooses the classes that are kept.

    Args:
        background: whether files have whole class vectors; then class 0 of the shards is the
            background, and the named classes follow. Otherwise class n has the name n.
        kept: the likeliest classes of a vector; None: all.
    """

    background: bool
    kept: int | None = CLASSES_KEPT

    def names(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names by class id, from those without the background; empty if unknown."""
        return (BACKGROUND, *names) if names and self.background else tuple(names)

    def __call__(self, classes: Array | None) -> Array | None:
        """The classes (R, T) that are kept of an image's, see `RegionFeatures`."""
        if classes is None:
            return None
        if (classes["id"] < 0).any():
            known = classes if self.background else classes[classes["id"] >= 0]
            classes = known.reshape(len(classes), -1)[:, : self.kept]
        ids = classes.copy()
        ids["id"] += self.background
        return ids
