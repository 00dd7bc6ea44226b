"""Every letter and digit, with its combining marks: for scripts without spaces between words.

Spaces and punctuation are dropped, and captions are written without spaces.
"""

from __future__ import annotations

from collections.abc import Iterable

from shards.tokenisers import Tokeniser, is_mark, nfc, register


@register("characters")
class Characters(Tokeniser):
    def split(self, caption: str) -> tuple[str, ...]:
        tokens: list[str] = []
        inside = False
        for character in nfc(caption.lower()):
            if character.isalnum():
                tokens.append(character)
                inside = True
            elif inside := inside and is_mark(character):
                tokens[-1] += character
        return tuple(tokens)

    def join(self, tokens: Iterable[str]) -> str:
        return "".join(tokens)
