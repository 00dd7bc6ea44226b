"""Captions that end in the middle of a phrase: what a reward without an end token encourages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_DANGLING_TEXT = """
a an the this that these those his its my your our their every each
of in on at by for with from to into onto over under near beside between through against toward
towards and or but nor while as than because if
"""
#: Determiners, prepositions and conjunctions, except those that are often adverbs.
DANGLING = frozenset(_DANGLING_TEXT.split())


def bad_endings(captions: Iterable[Sequence[str]]) -> float:
    """The share of captions (sequences of words) that are empty or end with a `DANGLING` word."""
    ends = [not words or words[-1] in DANGLING for words in captions]
    return sum(ends) / len(ends)
