"""The kinds of objects that a corpus draws from: the 24 of the plain one, or 96 that compete.

Each of the 24 has three variants, which are drawn like it with one mark, another, or both; a
detector confuses a kind with its variants. How often a variant occurs falls with its rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from shards.scenes.words import NOUNS, VARIANTS
from shards.scenes.world import CONFUSABLE, KINDS


@dataclass(frozen=True)
class Catalogue:
    """Kinds in groups that a detector easily confuses.

    Args:
        groups: of kinds.
        weights: how often each kind occurs, in the order of ``kinds``; all equally if empty.
    """

    groups: tuple[tuple[str, ...], ...]
    weights: tuple[float, ...] = ()

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """All kinds, group by group."""
        return tuple(kind for group in self.groups for kind in group)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The detector's classes: the background and the kinds."""
        return ("background", *self.kinds)

    @property
    def nouns(self) -> tuple[str, ...]:
        """The usual nouns of all kinds, each singular and plural."""
        return tuple(noun for kind in self.kinds for noun in NOUNS[kind][0])

    def rivals(self, kind: str) -> list[str]:
        """The other kinds of its group."""
        group = next(group for group in self.groups if kind in group)
        return [other for other in group if other != kind]


def _long_tail(kinds: int, stride: int) -> tuple[float, ...]:
    """Weights 1 / (rank + 2); neighbours in the catalogue differ in rank by ``stride``."""
    ranks = [number * stride % kinds for number in range(kinds)]
    return tuple(1 / (rank + 2) for rank in ranks)


PLAIN = Catalogue(CONFUSABLE)

_FAMILIES = tuple((kind, *VARIANTS[kind]) for kind in KINDS)
HARD = Catalogue(_FAMILIES, _long_tail(4 * len(KINDS), stride=29))
