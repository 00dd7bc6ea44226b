"""The longest common subsequence of captions, compiled.

Numba's cache of a function does not notice a change in another file: compiled functions call only
functions of this module.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from capdist.metrics.captions import Captions, Floats, Int32s, Ints, References


@njit(cache=True, nogil=True)
def _common_length(caption: Int32s, other: Int32s, lengths: Ints) -> int:
    """Length of the longest common subsequence, by dynamic programming in ``lengths`` (L + 1,).

    After each word of ``other``, ``lengths[n]`` is the length for the caption's first n words.
    """
    lengths[: len(caption) + 1] = 0
    for word in other:
        diagonal = 0
        for position in range(len(caption)):
            above = lengths[position + 1]
            if caption[position] == word:
                lengths[position + 1] = diagonal + 1
            else:
                lengths[position + 1] = max(above, lengths[position])
            diagonal = above
    return lengths[len(caption)]


@njit(cache=True, nogil=True)
def best_shares(captions: Captions, images: Ints, references: References) -> Floats:
    """(N, 2): the common subsequence's share of the caption, and of a reference.

    Each is the largest over the image's references; 0 if the caption is empty.

    Args:
        captions: N captions.
        images: (N,) indices of their images into the references.
        references: of M images.
    """
    best = np.zeros((len(images), 2))
    lengths = np.empty(len(captions.tokens) + 1, np.int64)
    starts, others = captions.starts, references.captions
    for row in range(len(images)):
        caption = captions.tokens[starts[row] : starts[row + 1]]
        for number in range(references.first[images[row]], references.first[images[row] + 1]):
            reference = others.tokens[others.starts[number] : others.starts[number + 1]]
            common = _common_length(caption, reference, lengths)
            if common > 0:
                best[row, 0] = max(best[row, 0], common / len(caption))
                best[row, 1] = max(best[row, 1], common / len(reference))
    return best
