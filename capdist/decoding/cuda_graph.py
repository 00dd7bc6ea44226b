"""A search captured as a CUDA graph, so that the GPU does not wait for kernel launches.

A step of a captioning model is about a hundred short kernels, which take the host longer to launch
than the GPU to run. The search reads no result before its end, so that encoder and steps together
are one graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import Search, SearchResult
from capdist.decoding.constraints import Constraints
from capdist.models.base import CaptionModel
from shards.members import MEMBERS

#: Regions and concepts are padded to multiples of this, so that few shapes need a graph.
STRIDE = 16


def make_search(
    model: CaptionModel[Any],
    decoding: DecodingConfig,
    constraints: Constraints,
    device: torch.device,
    *,
    graphs: bool = True,
) -> Callable[[Batch], SearchResult]:
    """A function that searches captions of batches on a device; on a GPU by CUDA graphs.

    Forced words rule graphs out: they make the search depend on the image.
    """
    if graphs and device.type == "cuda" and not constraints.forced and not constraints.by_image:
        return GraphSearches(model, decoding, constraints)

    @torch.inference_mode()
    def search(batch: Batch) -> SearchResult:
        return Search(model, batch, decoding, constraints).run(batch)

    return search


class GraphSearches:
    """Searches by replaying a CUDA graph, captured for every new shape of a batch.

    Weights may change between calls, but only in place.
    """

    def __init__(
        self, model: CaptionModel[Any], decoding: DecodingConfig, constraints: Constraints
    ) -> None:
        self.model = model
        self.decoding = decoding
        self.constraints = constraints
        # Graphs are replayed one at a time, and so can share memory.
        self.pool = torch.cuda.graph_pool_handle()
        self.graphs: dict[tuple[int, ...], CapturedSearch] = {}

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> SearchResult:
        """As `Search.run`."""
        batch = pad_to_stride(batch)
        shape = (*batch.class_ids.shape, batch.concept_mask.shape[1])
        if shape not in self.graphs:
            search = Search(self.model, batch, self.decoding, self.constraints)
            self.graphs[shape] = CapturedSearch(search, batch, self.pool)
        return self.graphs[shape](batch)


class CapturedSearch:
    """One graph, with its static input batch and output."""

    def __init__(self, search: Search, batch: Batch, pool: Any) -> None:
        copies: dict[str, Any] = {name: t.clone() for name, t in _tensors(batch).items()}
        self.batch = replace(batch, **copies)
        # Warm up before the capture: compile kernels, initialise libraries.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            search.run(self.batch)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.result = search.run(self.batch)

    def __call__(self, batch: Batch) -> SearchResult:
        """Search captions of another batch of the same shape."""
        inputs = _tensors(self.batch)
        for name, tensor in _tensors(batch).items():
            inputs[name].copy_(tensor)
        self.graph.replay()
        return SearchResult(*(t.clone() for t in vars(self.result).values()))


def pad_to_stride(batch: Batch) -> Batch:
    """Pad what an image has to multiples of STRIDE, and drop the captions."""
    nothing = Batch.empty(batch.regions.shape[2])
    padded: dict[str, Any] = {}
    for member in MEMBERS:
        for name, counts in member.fields:
            value = getattr(batch, name)
            if counts:
                padded[name] = _widened(value, -value.shape[1] % STRIDE)
            else:
                kept = (slice(None), *map(slice, getattr(nothing, name).shape[1:]))
                padded[name] = value[kept]
    return replace(batch, **padded)


def _widened(value: Tensor, places: int) -> Tensor:
    """The tensor (B, N, ...) with more places in its second axis."""
    return torch.nn.functional.pad(value, (0, 0) * (value.ndim - 2) + (0, places))


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
