"""The words of a batch's captions without padding, for models that compute nothing on padding.

Legend: T words of all captions, N captions that have any, B, S, L as in `capdist.batch`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Words:
    """T places of captions (B, S, L), first those of every caption's first word, then the second.

    The longest captions come first, so that a word's caption is at the same place of each position,
    and captions end from the last one on, as in `torch.nn.utils.rnn.PackedSequence`. Where no
    caption has a word, there is one place, so that every layer gets an input.

    ``tokens`` (T,) are input words, ``index`` (T,) their places in the flattened captions;
    ``captions`` (N,) are rows of the flattened (B, S); ``alive`` has the number of captions with a
    word at each position, ``shape`` is (B, S, L), and ``count`` is the number of real places.
    """

    tokens: Tensor
    index: Tensor
    captions: Tensor
    alive: tuple[int, ...]
    shape: tuple[int, int, int]
    count: int

    @classmethod
    def of(cls, tokens: Tensor, real: Tensor) -> Words:
        """Of captions (B, S, L), each with its words first, where ``real`` is True.

        Both should be on the CPU: their sizes are read.
        """
        images, captions, length = tokens.shape
        lengths = real.sum(-1).flatten()
        count = int(lengths.sum())
        if not count:
            lengths[0] = 1
        ended, rows = lengths.sort(descending=True, stable=True)
        place = torch.arange(length, device=tokens.device)
        alive = (ended > place[:, None]).sum(1)
        index = (rows * length + place[:, None])[ended > place[:, None]]
        return cls(
            tokens.flatten().index_select(0, index),
            index,
            rows[: int(alive[0])],
            tuple(n for n in alive.tolist() if n),
            (images, captions, length),
            count,
        )

    @classmethod
    def all(cls, tokens: Tensor) -> Words:
        """Every place of captions (B, S, L), padding or not."""
        images, captions, length = tokens.shape
        return cls(
            tokens.flatten(0, 1).T.flatten(),
            torch.arange(tokens.numel(), device=tokens.device).view(-1, length).T.flatten(),
            torch.arange(images * captions, device=tokens.device),
            (images * captions,) * length,
            (images, captions, length),
            tokens.numel(),
        )

    @property
    def positions(self) -> Tensor:
        """(T,) of each word in its caption."""
        return self.index % self.shape[2]

    @property
    def images(self) -> Tensor:
        """(N,) the image of every caption."""
        return self.captions // self.shape[1]

    def pick(self, captions: Tensor) -> Tensor:
        """The places (T, ...) of captions (B, S, L, ...)."""
        return captions.flatten(0, 2).index_select(0, self.index)

    def pad(self, rows: Tensor) -> Tensor:
        """Rows (T, ...) as captions (B, S, L, ...), zeros at padding."""
        images, captions, length = self.shape
        padded = rows.new_zeros(images * captions * length, *rows.shape[1:])
        return padded.index_copy(0, self.index, rows).unflatten(0, self.shape)

    def reading(self, tokens: Tensor) -> Words:
        """The same places of other captions (B, S, L)."""
        return replace(self, tokens=self.pick(tokens))

    def to(self, device: torch.device | str) -> Words:
        tokens, index, captions = (
            tensor.to(device, non_blocking=True)
            for tensor in (self.tokens, self.index, self.captions)
        )
        return replace(self, tokens=tokens, index=index, captions=captions)
