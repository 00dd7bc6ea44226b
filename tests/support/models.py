"""Small models and a batch for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.base import Dims, build, registered
from capdist.vocab import BOS

DIMS = Dims(features=7, vocabulary=23, classes=9, predicates=4)
B, S, R, A, L, T = 3, 2, 5, 4, 6, 3
GLIED_ROWS = {
    "base": {"global_visual": False, "global_attribute": False, "local": False},
    "visual": {"global_visual": True, "global_attribute": False, "local": False},
    "attribute": {"global_visual": False, "global_attribute": True, "local": False},
    "global": {"global_visual": True, "global_attribute": True, "local": False},
    "local": {"global_visual": False, "global_attribute": False, "local": True},
}
SS_ROWS = {
    "spatial": {"semantic": False},
    "semantic": {"spatial": False},
    "neither": {"spatial": False, "semantic": False},
}
#: Sizes, of whatever has such, that make a model quick to run.
SMALL = {"width": 24, "embedding": 10, "hidden": 20, "attention": 9, "layers": 2}


def small(name: str, **options: Any) -> dict[str, Any]:
    """The section of a small model."""
    known = registered()[name].Config.model_fields
    return {"name": name, **{key: SMALL[key] for key in SMALL if key in known}, **options}


def size_in_millions(section: dict[str, Any]) -> float:
    """The parameters of a model in millions, with the papers' features and vocabulary."""
    with torch.device("meta"):  # no weights are made
        model = build(section, Dims(features=2048, vocabulary=9487 + 3))
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    region_mask = torch.arange(R) < torch.tensor([5, 1, 3])[:, None]
    concept_mask = torch.arange(A) < torch.tensor([4, 2, 0])[:, None]
    tokens = torch.randint(4, 23, (B, S, L), generator=generator)
    tokens[..., 0] = BOS
    regions = torch.randn(B, R, 7, generator=generator) * region_mask[..., None]
    concepts = torch.randint(4, 23, (B, A), generator=generator) * concept_mask
    return Batch(
        keys=("a", "b", "c"),
        image_ids=torch.arange(B),
        regions=regions,
        region_mask=region_mask,
        region_sets=torch.zeros(B, R, dtype=torch.long),
        boxes=torch.rand(B, R, 4, generator=generator),
        class_ids=torch.randint(9, (B, R, T), generator=generator),
        class_probs=torch.rand(B, R, T, generator=generator).softmax(-1),
        concepts=concepts,
        concept_mask=concept_mask,
        tokens=tokens,
        objects=torch.rand(B, 4, 4, generator=generator),
        object_captions=torch.tensor([[0, 0, 1, 1], [1, 0, -1, -1], [-1, -1, -1, -1]]),
        object_words=torch.tensor(
            [
                [[0, 2, 1], [2, 4, 3], [1, 2, 1], [1, 2, 1]],
                [[0, 3, 2], [3, 5, 4], [0, 0, 0], [0, 0, 0]],
                [[0, 0, 0]] * 4,
            ]
        ),
        object_classes=torch.tensor([[3, 1, -1, 8], [0, 8, -1, -1], [-1, -1, -1, -1]]),
        relations=torch.tensor(
            [
                [[0, 1, 2], [1, 0, 4], [4, 2, 1]],
                [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
                [[2, 0, 3], [0, 0, 0], [0, 0, 0]],
            ]
        ),
    )


def images_of(batch: Batch, images: slice) -> Batch:
    """Some images of a batch."""
    arrays = {n: v for n, v in vars(batch).items() if isinstance(v, (Tensor, np.ndarray))}
    chosen: dict[str, Any] = {name: value[images] for name, value in arrays.items()}
    return replace(batch, keys=batch.keys[images], **chosen)
