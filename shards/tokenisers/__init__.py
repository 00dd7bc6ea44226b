"""How captions become tokens: one choice of a build, for its vocabulary and for all scores.

A tokeniser is one module in this folder: a class that registers itself with `register`. Its name is
that of ``--tokeniser``, and is stored in the manifest.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from shards.schema import ShardError

#: The default, and the language that is known of captions without another one: English.
PTB_LIKE, ENGLISH = "ptb-like", "en"
#: ISO 639's code of a language that is not known.
UNDETERMINED = "und"
_CODE = re.compile("[a-z]{2,3}")

#: Letters of Persian and Indic words may be separated by these.
_JOINERS = "\u200c\u200d"


class Tokeniser(ABC):
    """Splits captions into tokens, and writes tokens as a caption.

    ``split(join(split(caption)))`` equals ``split(caption)``, so that captions of a model, which
    writes tokens, are scored as they were written.
    """

    #: Whether the tokens of a captions' file, if it has some, are kept instead of `split`'s.
    keeps_given: ClassVar[bool] = False

    @abstractmethod
    def split(self, caption: str) -> tuple[str, ...]:
        """The tokens of a caption, none of them empty, in Unicode's form NFC."""

    def join(self, tokens: Iterable[str]) -> str:
        """The caption of these tokens."""
        return " ".join(tokens)


_TOKENISERS: dict[str, Tokeniser] = {}
_T = TypeVar("_T", bound=type[Tokeniser])


def register(name: str) -> Callable[[_T], _T]:
    """Make a tokeniser known by the name that ``--tokeniser`` takes."""

    def add(cls: _T) -> _T:
        _TOKENISERS[name] = cls()
        return cls

    return add


def registered() -> dict[str, Tokeniser]:
    """All tokenisers by name."""
    return dict(sorted(_TOKENISERS.items()))


@dataclass(frozen=True)
class CaptionText:
    """The tokeniser of a set's captions, by name, and their language, an ISO 639 code."""

    tokeniser: str = PTB_LIKE
    language: str = ENGLISH

    @classmethod
    def from_json(cls, where: str, fields: Mapping[str, Any]) -> CaptionText:
        """From the fields of a file that has both, or neither if it is older than they are.

        Raises:
            ShardError: as `check`.
        """
        known = {name: fields[name] for name in ("tokeniser", "language") if name in fields}
        return cls(**known).check(where)

    def check(self, where: str) -> CaptionText:
        """Itself, if there is such a tokeniser, and the language is a code.

        Raises:
            ShardError: after ``where``, naming what was expected.
        """
        if self.tokeniser not in _TOKENISERS:
            raise ShardError(
                f"{where}: tokeniser {self.tokeniser!r}, expected one of "
                f"{', '.join(registered())}; correct it, or add its file to shards/tokenisers"
            )
        if not _CODE.fullmatch(self.language):
            raise ShardError(
                f"{where}: language {self.language!r}, expected an ISO 639 code, such as en or zh"
            )
        return self

    @property
    def is_english(self) -> bool:
        return self.language == ENGLISH

    @property
    def is_ptb(self) -> bool:
        """Whether final scores use the Penn Treebank tokeniser, which is for English."""
        return self.is_english and self.tokeniser == PTB_LIKE

    def split(self, caption: str) -> tuple[str, ...]:
        return _TOKENISERS[self.tokeniser].split(caption)

    def join(self, tokens: Iterable[str]) -> str:
        return _TOKENISERS[self.tokeniser].join(tokens)

    @property
    def keeps_given(self) -> bool:
        return _TOKENISERS[self.tokeniser].keeps_given


#: The default: what sets without a choice of their own have.
ENGLISH_TEXT = CaptionText()


def nfc(text: str) -> str:
    """The text in Unicode's form NFC, in which equal texts have equal characters."""
    return unicodedata.normalize("NFC", text)


def is_mark(character: str) -> bool:
    """Whether it belongs to the letter before it: vowel signs, accents, joiners."""
    if "\ufe00" <= character <= "\ufe0f":  # how an emoji looks
        return False
    return character in _JOINERS or unicodedata.category(character) in ("Mn", "Mc")


def is_word(token: str) -> bool:
    """Whether a token has nothing but letters, with their marks."""
    return token[:1].isalpha() and all(char.isalpha() or is_mark(char) for char in token)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
