"""Whether class names fit the ids of ``classes.npy``."""

from __future__ import annotations

from collections.abc import Sequence

from shards.schema import Array, ShardError

#: What lists of classes call an entry for the background, which ids rarely count.
_BACKGROUND = {"background", "__background__", "_background_", "bg"}


def names_needed(classes: Array | None) -> int:
    """The smallest number of names for the ids of some regions (R, T)."""
    return int(classes["id"].max(initial=-1)) + 1 if classes is not None else 0


def names_problem(names: Sequence[str], classes: int, *, exact: bool = False) -> str:
    """What is wrong with class names, empty if they fit.

    Args:
        names: of the classes by id; none always fit.
        classes: the smallest number of names that a whole set needs.
        exact: whether the set has just so many classes.
    """
    if not names or not classes:
        return ""
    if len(names) < classes:
        return f"{len(names)} class names, but there are {classes} classes; name every class"
    if len(names) >= classes + (not exact) and names[0].strip().lower() in _BACKGROUND:
        return (
            f"{len(names)} class names for {classes} classes, the first of them {names[0]!r}, so "
            "that every class has the name of the one before; remove that name"
        )
    if exact and len(names) > classes:
        return (
            f"{len(names)} class names, but there are {classes} classes besides the background; "
            "give the feature extractor's own names, one for each class"
        )
    return ""


def check_class_ids(where: str, classes: Array | None, names: Sequence[str]) -> None:
    """Refuse class ids without a name, if there are names at all.

    Raises:
        ShardError: naming the id.
    """
    if classes is None or not names or not classes.size:
        return
    ids = classes["id"]
    for wrong in (int(ids.min()), int(ids.max())):
        if not 0 <= wrong < len(names):
            raise ShardError(
                f"{where}: class id {wrong}, expected 0 to {len(names) - 1}; build the shards with "
                "the class names of the feature extractor"
            )
