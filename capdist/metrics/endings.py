"""Captions that end in the middle of a phrase: what a reward without an end token encourages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shards.tokenisers import ENGLISH_TEXT, CaptionText

_DANGLING_TEXT = """
a an the this that these those his its my your our their every each
of in on at by for with from to into onto over under near beside between through against toward
towards and or but nor while as than because if
"""
#: Determiners, prepositions and conjunctions, except those that are often adverbs.
DANGLING = frozenset(_DANGLING_TEXT.split())


def bad_endings(captions: Iterable[Sequence[str]], text: CaptionText = ENGLISH_TEXT) -> float:
    """The share of captions (sequences of words) that are empty or end with a `DANGLING` word.

    Of other languages than English, it is the share of empty captions.
    """
    dangling = DANGLING if text.is_english else frozenset()
    ends = [not words or words[-1] in dangling for words in captions]
    return sum(ends) / len(ends)


def describe_endings(share: float, text: CaptionText) -> str:
    """What `bad_endings` found."""
    return f"{100 * share:.1f} % {'end badly' if text.is_english else 'are empty'}"
