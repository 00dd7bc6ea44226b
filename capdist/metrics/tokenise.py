"""The plain tokeniser, for machines without Java for the Penn Treebank one."""

from __future__ import annotations

import re

#: A word (with inner marks: don't, t-shirt, u.s, 1,000), or a run of one mark.
_TOKEN = re.compile(r"\w+(?:['’./-]\w+|,\d+)*|([^\w\s])\1*")

#: Marks that the Penn Treebank tokeniser respells (as ``, '', -- and ...), then drops.
_RESPELLED = frozenset('"“”‘’–—…')


def tokenise(caption: str) -> str:
    """A caption in lower case, without the punctuation in pycocoevalcap's list.

    Close to the Penn Treebank tokeniser on ordinary captions, but not equal to it: contractions are
    not split ("don't" instead of "do n't").
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    tokens = (match.group() for match in _TOKEN.finditer(caption.lower()))
    dropped = _RESPELLED.union(PUNCTUATIONS)
    return " ".join(token for token in tokens if token not in dropped)
