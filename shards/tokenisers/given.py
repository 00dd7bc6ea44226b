"""The tokens that a file has; if it has none, what stands between spaces in its captions.

For captions that another program has split into words. Nothing is put into lower case or dropped.
"""

from __future__ import annotations

from typing import ClassVar

from shards.tokenisers import Tokeniser, nfc, register


@register("given")
class Given(Tokeniser):
    keeps_given: ClassVar[bool] = True

    def split(self, caption: str) -> tuple[str, ...]:
        return tuple(nfc(caption).split())
