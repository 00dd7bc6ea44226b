"""What the words of decoded captions attended to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.decoding.beam import replay_attention
from capdist.decoding.ensemble import Ensemble
from capdist.decoding.generate import Caption
from capdist.models.base import CaptionModel
from capdist.models.mia import Mia
from capdist.reporting.report.looks import BOX_UNIT, Beam, Look, Map
from capdist.vocab import EOS, PAD, Vocabulary


@dataclass(frozen=True)
class Names:
    """The model's vocabulary, and the detector's classes."""

    vocab: Vocabulary
    classes: Sequence[str]

    def labels(self, class_ids: Tensor) -> list[str]:
        """The name of the likeliest class of (R, T); none without classes."""
        return (
            [self.classes[first] for first, *_ in class_ids.tolist()]
            if self.classes and class_ids.shape[1]
            else []
        )


@dataclass(frozen=True)
class Attended:
    """What an image's best caption of L words attended to, without padding.

    ``regions`` are the weights (L, R) of `CaptionModel.attention`, (L, 0) if there are none;
    ``maps`` are those of `all_attention`, (L, R) or (L, A).
    """

    regions: Tensor
    maps: dict[str, Tensor]


@torch.inference_mode()
def look(
    model: CaptionModel[Any],
    names: Names,
    batches: Iterable[Batch],
    captions: Mapping[int, Sequence[Caption]],
) -> Iterator[Look]:
    """What each image's best caption attended to, by teacher forcing.

    Args:
        model: in evaluation mode.
        names: of words and classes.
        batches: the images.
        captions: by image number, best first.
    """
    for batch in batches:
        seen = attended(model, names.vocab, batch, captions)
        for row, image in enumerate(batch.image_ids.tolist()):
            yield _look(batch, names, row, captions[image], seen[row].maps)


@torch.inference_mode()
def attended(
    model: CaptionModel[Any],
    vocab: Vocabulary,
    batch: Batch,
    captions: Mapping[int, Sequence[Caption]],
) -> list[Attended]:
    """What the best caption of each image of a batch attended to; see `look`."""
    device = next(model.parameters()).device
    words = [captions[image][0].words for image in batch.image_ids.tolist()]
    total, maps = _attention(model, batch.to(device), _tokens(words, vocab).to(device))
    masks = {"regions": batch.region_mask, "concepts": batch.concept_mask}

    def cut(name: str, weights: Tensor, row: int) -> Tensor:
        there = masks[name.partition("/")[0]][row]
        return weights[row, 0, : len(words[row])].float().cpu()[:, there]

    return [
        Attended(
            cut("regions", total["regions"], row)
            if "regions" in total
            else torch.zeros(len(words[row]), 0),
            {name: cut(name, weights, row) for name, weights in maps.items()},
        )
        for row in range(len(words))
    ]


def all_attention(model: CaptionModel[Any], batch: Batch, tokens: Tensor) -> dict[str, Tensor]:
    """The attentions before each of (B, S, L) tokens, each under one name.

    Besides those of `CaptionModel.attention`, where MIA refines what a decoder reads: "regions/N=1"
    and so on, the share of the original regions or concepts after each iteration.
    """
    return _attention(model, batch, tokens)[1]


def _attention(
    model: CaptionModel[Any], batch: Batch, tokens: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`CaptionModel.attention` and `all_attention`."""
    with accumulated_by_mia(model) as iterations:
        attention = replay_attention(model, batch, tokens)
    named = {name.partition("/")[0] for name in attention if "/" in name}
    found = {name: weights for name, weights in attention.items() if name not in named}
    for number, made in enumerate(iterations, 1):
        for part in made.keys() & attention.keys():
            found[f"{part}/N={number}"] = attention[part] @ made[part][:, None]
    return attention, found


@contextmanager
def accumulated_by_mia(model: nn.Module) -> Iterator[list[dict[str, Tensor]]]:
    """A list that gets `Mia.accumulated` of the batch that the model encodes next.

    It stays empty for an ensemble, whose members' refinements differ.
    """
    found: list[dict[str, Tensor]] = []

    def note(module: Mia, inputs: tuple[Tensor, ...], _: Any) -> None:
        found[:] = module.accumulated(*inputs)

    refinements = [] if isinstance(model, Ensemble) else model.modules()
    hooks = [m.register_forward_hook(note) for m in refinements if isinstance(m, Mia)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _tokens(captions: Sequence[Sequence[str]], vocab: Vocabulary) -> Tensor:
    """(B, 1, L) words and EOS, then PAD."""
    ids = [[*map(vocab.id, words), EOS] for words in captions]
    longest = max(map(len, ids))
    return torch.tensor([[row + [PAD] * (longest - len(row))] for row in ids])


def _look(
    batch: Batch, names: Names, row: int, captions: Sequence[Caption], maps: dict[str, Tensor]
) -> Look:
    there = {"regions": batch.region_mask[row], "concepts": batch.concept_mask[row]}
    boxes = (batch.boxes[row, there["regions"]] * BOX_UNIT).round().int().tolist()
    concepts = batch.concepts[row, there["concepts"]].tolist()
    return Look(
        image=int(batch.image_ids[row]),
        beams=[Beam(caption.words, round(caption.score, 4)) for caption in captions],
        boxes=boxes,
        labels=names.labels(batch.class_ids[row, there["regions"]]),
        concepts=[names.vocab.words[concept] for concept in concepts],
        maps={name: Map.of(weights.numpy()) for name, weights in maps.items()},
    )
