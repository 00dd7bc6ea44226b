"""The data types that packages exchange, and the legend of shapes.

Legend: B images, S captions per image, K beams, R regions, A concepts, F feature width, D model
width, L length, V vocabulary, T most likely classes of a region, G grounded objects. Tensors may
have their shape as a suffix: ``logits_BSLV``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capdist.vocab import PAD
from capdist.words import Words
from shards.members import MEMBERS


@dataclass(frozen=True)
class Batch:
    """Images with all their captions, padded.

    ``image_ids`` (B,) are image ids, or `shards.image_ids.image_number` of those that are texts.
    ``regions`` (B, R, F), in the shards' float type until `to` makes them float32, and ``boxes``
    (B, R, 4), x1 y1 x2 y2 in 0..1, are real where ``region_mask`` (B, R) is True. If a model reads
    several feature sets, ``region_sets`` (B, R) is the number of a region's set, else 0; those of
    the first set come first, F is the largest width, and narrower regions are padded with zeros.
    As real are
    ``class_ids`` (B, R, T) and ``class_probs`` (B, R, T), with T = 0 if the shards have no classes;
    ``concepts`` (B, A) are word ids, best first, real where ``concept_mask`` (B, A) is True;
    ``tokens`` (B, S, L) are BOS, words, EOS, then PAD; a missing caption is all PAD;
    ``objects`` (B, G, 4) are the boxes of captions' phrases, with G = 0 unless grounding is read;
    ``object_captions`` (B, G) the index of the phrase's caption, padded with -1; ``object_words``
    (B, G, 3) its first word, its last word + 1 and the word that names the object, whose positions
    are those of ``targets``, and may be after the end of a caption that was clipped;
    ``object_classes`` (B, G) its class, -1 for one that the detector does not have; ``relations``
    (B, E, 3) are predicates between regions: subject, object and the number of the predicate, 0
    where there is no more, with E = 0 if the shards have none.
    ``references`` (B, S, L), of objectives that reward captions, are all captions as
    `capdist.vocab.WordIds` encodes them, padded with -1; they stay in the host's memory.
    """

    keys: tuple[str, ...]
    image_ids: Tensor
    regions: Tensor
    region_mask: Tensor
    region_sets: Tensor
    boxes: Tensor
    class_ids: Tensor
    class_probs: Tensor
    concepts: Tensor
    concept_mask: Tensor
    tokens: Tensor
    objects: Tensor
    object_captions: Tensor
    object_words: Tensor
    object_classes: Tensor
    relations: Tensor
    references: NDArray[np.int32] | None = field(default=None, kw_only=True)

    @classmethod
    def empty(cls, feature_dim: int) -> Batch:
        """An image without targets, for a rank that has no images in an uneven last step."""
        fields: dict[str, Any] = {
            name: torch.from_numpy(array)
            for member in MEMBERS
            for name, array in member.empty(PAD).items()
        }
        fields |= {
            "regions": torch.zeros(1, 1, feature_dim),
            "region_mask": torch.ones(1, 1, dtype=torch.bool),
            "region_sets": torch.zeros(1, 1, dtype=torch.int64),
        }
        return cls(keys=(), **fields)

    @property
    def inputs(self) -> Tensor:
        """(B, S, L-1) input tokens under teacher forcing."""
        return self.tokens[..., :-1]

    @property
    def targets(self) -> Tensor:
        """(B, S, L-1) tokens to predict; PAD carries no loss."""
        return self.tokens[..., 1:]

    @cached_property
    def words(self) -> Words:
        """The input words whose targets carry loss."""
        tokens = self.tokens.cpu()
        words = Words.of(tokens[..., :-1], tokens[..., 1:] != PAD)
        return words.to(self.tokens.device)

    @property
    def token_count(self) -> int:
        """Targets that carry loss: every word and every EOS."""
        return self.words.count

    @property
    def caption_count(self) -> int:
        """Captions that are not padding."""
        return len(self.words.captions) if self.words.count else 0

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; regions become float32 there, as float16 is faster to copy."""
        tensors = {n: v for n, v in vars(self).items() if isinstance(v, Tensor)}
        moved: dict[str, Any] = {n: v.to(device, non_blocking=True) for n, v in tensors.items()}
        batch = replace(self, **{**moved, "regions": moved["regions"].float()})
        # To find them on a GPU, the host would have to wait for it.
        vars(batch)["words"] = self.words.to(device)
        return batch


@dataclass(frozen=True)
class Hypotheses:
    """Decoded captions, best first.

    ``tokens`` (B, K, L) word ids, EOS, then PAD; ``scores`` (B, K) float32 summed
    log-probabilities; ``attention``, if requested, the weights before each token: "regions"
    (B, K, L, R), "concepts" (B, K, L, A).
    """

    tokens: Tensor
    scores: Tensor
    attention: dict[str, Tensor] = field(default_factory=dict)
