"""The longest common subsequence of captions, compiled.

Numba's cache of a function does not notice a change in another file: what is compiled calls only
what stands here.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from capdist.metrics.captions import Captions, Floats, Int32s, Ints, References


@njit(cache=True, nogil=True)
def _common(caption: Int32s, other: Int32s, lengths: Ints) -> int:
    """Words of the longest common subsequence, by dynamic programming over ``lengths`` (L + 1,).

    Behind each word of ``other``, ``lengths[n]`` is that of the first n words of the caption.
    """
    lengths[: len(caption) + 1] = 0
    for word in other:
        diagonal = 0
        for place in range(len(caption)):
            above = lengths[place + 1]
            if caption[place] == word:
                lengths[place + 1] = diagonal + 1
            else:
                lengths[place + 1] = max(above, lengths[place])
            diagonal = above
    return lengths[len(caption)]


@njit(cache=True, nogil=True)
def best_shares(captions: Captions, places: Ints, references: References) -> Floats:
    """(N, 2): the share of a caption, and of a reference, that they have in common in order.

    Each is the largest over the image's references; 0 where a caption is empty.

    Args:
        captions: N of them.
        places: (N,) where their images stand among the references'.
        references: of M images.
    """
    best = np.zeros((len(places), 2))
    lengths = np.empty(len(captions.tokens) + 1, np.int64)
    starts, others = captions.starts, references.captions
    for row in range(len(places)):
        caption = captions.tokens[starts[row] : starts[row + 1]]
        for number in range(references.first[places[row]], references.first[places[row] + 1]):
            reference = others.tokens[others.starts[number] : others.starts[number + 1]]
            common = _common(caption, reference, lengths)
            if common > 0:
                best[row, 0] = max(best[row, 0], common / len(caption))
                best[row, 1] = max(best[row, 1], common / len(reference))
    return best
