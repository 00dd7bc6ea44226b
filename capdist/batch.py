"""What the parts hand each other, and the legend of shapes.

Legend: B images, S captions of an image, K beams, R regions, A concepts, F feature width,
D model width, L length, V vocabulary, T likeliest classes of a region, G grounded objects.
Tensors may carry it as a suffix: ``logits_BSLV``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from capdist.vocab import PAD


@dataclass(frozen=True)
class Batch:
    """Images with all their captions, padded.

    ``regions`` (B, R, F), float16 where shards store that until `to` makes them float32, and
    ``boxes`` (B, R, 4), x1 y1 x2 y2 in 0..1, are real where ``region_mask`` (B, R); so are
    ``class_ids`` (B, R, T) and ``class_probs`` (B, R, T), with T = 0 where the shards have no
    classes;
    ``concepts`` (B, A) are word ids, best first, real where ``concept_mask`` (B, A);
    ``tokens`` (B, S, L) run BOS, words, EOS, PAD, and a caption that an image lacks is all PAD;
    ``objects`` (B, G, 4) are boxes of what captions speak of, where grounding was asked for, and
    ``object_captions`` (B, G) the number of the caption that does, -1 behind the last.
    """

    keys: tuple[str, ...]
    image_ids: Tensor
    regions: Tensor
    region_mask: Tensor
    boxes: Tensor
    class_ids: Tensor
    class_probs: Tensor
    concepts: Tensor
    concept_mask: Tensor
    tokens: Tensor
    objects: Tensor
    object_captions: Tensor

    @classmethod
    def empty(cls, feature_dim: int) -> Batch:
        """A batch of no weight, for a rank that an uneven tail leaves without images."""
        return cls(
            keys=(),
            image_ids=torch.full((1,), -1),
            regions=torch.zeros(1, 1, feature_dim),
            region_mask=torch.ones(1, 1, dtype=torch.bool),
            boxes=torch.zeros(1, 1, 4),
            class_ids=torch.zeros(1, 1, 0, dtype=torch.long),
            class_probs=torch.zeros(1, 1, 0),
            concepts=torch.zeros(1, 1, dtype=torch.long),
            concept_mask=torch.ones(1, 1, dtype=torch.bool),
            tokens=torch.full((1, 1, 2), PAD),
            objects=torch.zeros(1, 0, 4),
            object_captions=torch.zeros(1, 0, dtype=torch.long),
        )

    @property
    def inputs(self) -> Tensor:
        """(B, S, L-1) what a decoder reads under teacher forcing."""
        return self.tokens[..., :-1]

    @property
    def targets(self) -> Tensor:
        """(B, S, L-1) what it must predict; PAD carries no loss."""
        return self.tokens[..., 1:]

    @property
    def token_count(self) -> int:
        """Targets that carry loss: every word and every EOS."""
        return int((self.targets != PAD).sum())

    @property
    def caption_count(self) -> int:
        """Captions that are really there."""
        return int((self.targets != PAD).any(-1).sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device, its regions as float32: stored ones may be half as large."""
        tensors = {n: v for n, v in vars(self).items() if isinstance(v, Tensor)}
        moved: dict[str, Any] = {n: v.to(device, non_blocking=True) for n, v in tensors.items()}
        return replace(self, **{**moved, "regions": moved["regions"].float()})


@dataclass(frozen=True)
class Hypotheses:
    """Decoded captions, best first.

    ``tokens`` (B, K, L) word ids, EOS, then PAD; ``scores`` (B, K) float32 summed
    log-probabilities; ``attention``, where it was asked for, the weights (B, K, L, R) or
    (B, K, L, A) of the look at image parts before each token, by the parts' name.
    """

    tokens: Tensor
    scores: Tensor
    attention: dict[str, Tensor] = field(default_factory=dict)
