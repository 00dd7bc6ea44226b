"""Words between spaces, by one rule that is close to the Penn Treebank tokeniser's.

In lower case, a word is a run of letters and digits, with their combining marks, which may contain
' ’ - . / or, before a digit, a comma; everything else is dropped. "The man's T-shirt, 2 dogs."
becomes: the man's t-shirt 2 dogs. Contractions are not split.

Tokens that a file has are kept: Karpathy's are by the same rule or close to it.
"""

from __future__ import annotations

import re
from typing import ClassVar

from shards.tokenisers import PTB_LIKE, Tokeniser, is_mark, nfc, register

_WORD = re.compile(r"[^\W_]+(?:['’./-][^\W_]+|,\d+)*")


@register(PTB_LIKE)
class PtbLike(Tokeniser):
    keeps_given: ClassVar[bool] = True

    def split(self, caption: str) -> tuple[str, ...]:
        text = nfc(caption.lower())
        # Regular expressions do not count marks as parts of words: letters stand in for them.
        letters = text if text.isascii() else "".join("x" if is_mark(c) else c for c in text)
        tokens = (text[match.start() : match.end()] for match in _WORD.finditer(letters))
        return tuple(token for token in tokens if any(map(str.isalnum, token)))
