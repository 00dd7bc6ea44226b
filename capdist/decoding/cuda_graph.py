"""A search captured as a CUDA graph, so that a GPU need not wait for the host's launches.

A step of a captioning model is some hundred short kernels, which take the host longer to launch
than the GPU to run. The search never asks for a result before its end, so that all its steps, the
encoder's included, are one graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import Found, Search
from capdist.decoding.constraints import Constraints
from capdist.models.base import CaptionModel

#: Regions and concepts are padded to multiples of it, so that few shapes need a graph.
STRIDE = 16


def searcher(
    model: CaptionModel[Any], decoding: DecodingConfig, limits: Constraints, device: torch.device
) -> Callable[[Batch], Found]:
    """The search of batches on a device: replayed on a GPU, unless words are forced.

    ConstrainedBeam words make another search of every image.
    """
    if device.type == "cuda" and not limits.forced and not limits.by_image:
        return GraphSearches(model, decoding, limits)

    @torch.inference_mode()
    def search(batch: Batch) -> Found:
        return Search(model, batch, decoding, limits).run(batch)

    return search


class GraphSearches:
    """Searches by replaying a graph, captured where a batch has a new shape.

    Weights may change between calls if they stay where they are.
    """

    def __init__(
        self, model: CaptionModel[Any], decoding: DecodingConfig, limits: Constraints
    ) -> None:
        self.model = model
        self.decoding = decoding
        self.limits = limits
        # Graphs are replayed one after the other, and so can share their memory.
        self.pool = torch.cuda.graph_pool_handle()
        self.graphs: dict[tuple[int, ...], CapturedSearch] = {}

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Found:
        """What `Search.run` finds."""
        batch = pad(batch)
        shape = (*batch.class_ids.shape, batch.concept_mask.shape[1])
        if shape not in self.graphs:
            search = Search(self.model, batch, self.decoding, self.limits)
            self.graphs[shape] = CapturedSearch(search, batch, self.pool)
        return self.graphs[shape](batch)


class CapturedSearch:
    """One graph, with the batch that it reads and the result that it writes."""

    def __init__(self, search: Search, batch: Batch, pool: Any) -> None:
        copies: dict[str, Any] = {name: t.clone() for name, t in _tensors(batch).items()}
        self.batch = replace(batch, **copies)
        # Kernels are compiled and libraries set up before anything is captured.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            search.run(self.batch)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.found = search.run(self.batch)

    def __call__(self, batch: Batch) -> Found:
        """The search of another batch of the same shape."""
        held = _tensors(self.batch)
        for name, tensor in _tensors(batch).items():
            held[name].copy_(tensor)
        self.graph.replay()
        return Found(*(t.clone() for t in vars(self.found).values()))


def pad(batch: Batch) -> Batch:
    """A batch with as many regions and concepts as one of few shapes, and nothing of captions."""
    regions = -batch.regions.shape[1] % STRIDE
    concepts = -batch.concepts.shape[1] % STRIDE
    widen = torch.nn.functional.pad
    return replace(
        batch,
        regions=widen(batch.regions, (0, 0, 0, regions)),
        region_mask=widen(batch.region_mask, (0, regions)),
        boxes=widen(batch.boxes, (0, 0, 0, regions)),
        class_ids=widen(batch.class_ids, (0, 0, 0, regions)),
        class_probs=widen(batch.class_probs, (0, 0, 0, regions)),
        concepts=widen(batch.concepts, (0, concepts)),
        concept_mask=widen(batch.concept_mask, (0, concepts)),
        tokens=batch.tokens[:, :1, :2],
        objects=batch.objects[:, :0],
        object_captions=batch.object_captions[:, :0],
    )


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
