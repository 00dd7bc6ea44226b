"""GLIED's Figure 3 and MIA's Figure 4, drawn from a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.data.dataset import evaluation_batches, references
from capdist.data.rank_plan import Ranks
from capdist.inference.exported_model import ExportedModel, read_run, run_shards
from capdist.inference.looks import accumulated_by_mia, all_attention
from capdist.models.glied import Glied
from capdist.models.mia import Mia
from capdist.reporting.panels import Panel, Weighted, draw_panels
from capdist.reporting.report.files import RunFiles
from capdist.reporting.report.looks import BOX_UNIT, Look
from shards.manifest import Manifest
from shards.schema import decode_sample_json

#: Regions and words that each part of a figure shows.
TOP = 3

Row = tuple[str, list[Panel]]


@dataclass(frozen=True)
class Seen:
    """An image of the batch (row 0), its picture, and the caption that was stored for it."""

    batch: Batch
    picture: bytes | None
    aspect: float
    look: Look

    def panel(self, title: str, boxes: Sequence[Weighted], words: Sequence[Weighted]) -> Panel:
        return Panel(title, self.picture, self.aspect, boxes, words)

    def regions(self, weights: Tensor, colour: int = 0) -> list[Weighted]:
        """The `TOP` regions by weight (R,)."""
        boxes = [[value / BOX_UNIT for value in box] for box in self.look.boxes]
        return [Weighted(boxes[i], weight, colour) for i, weight in top(weights)]

    def concepts(self, weights: Tensor, colour: int = 0) -> list[Weighted]:
        """The `TOP` concepts by weight (A,)."""
        return [Weighted(self.look.concepts[i], weight, colour) for i, weight in top(weights)]


def draw_figure(files: RunFiles, split: str | None, images: Sequence[str], out: Path) -> None:
    """Draw the figure of a run's model for images of a split, the last evaluated one by default.

    Raises:
        ConfigError: if the papers have no figure of such a model, or an image is not there.
        ReportError: if the split was not evaluated.
    """
    run, exported = files.run, read_run(files.run)
    mutual = any(isinstance(module, Mia) for module in exported.model.modules())
    if not (isinstance(exported.model, Glied) or mutual):
        raise ConfigError(
            f"{run}: no paper has a figure of model {exported.config.model.name!r}; choose a run "
            "of glied, or of a model with MIA"
        )
    name = files.widest(split)
    manifest, rows = run_shards(exported.config, run, files.shards), []
    with torch.inference_mode():
        for seen in find(exported, manifest, name.split, images, files.looks(name)):
            draw = glied_row if isinstance(exported.model, Glied) else mia_row
            rows.append(draw(exported, seen))
    draw_panels(rows, out)


def find(
    exported: ExportedModel,
    manifest: Manifest,
    split: str,
    images: Sequence[str],
    looks: dict[int, Look],
) -> Iterator[Seen]:
    """The images with these ids, one to a batch, in the split's order."""
    ids = {str(each): number for number, each in references(manifest, split).ids.items()}
    for image in images:
        if ids.get(image) not in looks:
            raise ConfigError(
                f"{manifest.location}: image {image} of {split} has no stored attention; choose "
                "one of the report's gallery"
            )
    batches = evaluation_batches(manifest, split, exported.config.data, 1, exported.vocab, Ranks())
    pictures = dict(manifest.read(split, "png"))
    sizes = {key: decode_sample_json(key, data) for key, data in manifest.read(split, "json")}
    for batch in chain.from_iterable(batches.epoch(0)):
        key, number = batch.keys[0], int(batch.image_ids[0])
        if number in {ids[image] for image in images}:
            size = sizes[key]
            aspect = size["width"] / size["height"] if size["height"] else 4 / 3
            yield Seen(batch.to("cpu"), pictures.get(key), aspect, looks[number])


def glied_row(exported: ExportedModel, seen: Seen) -> Row:
    """Global and local distilling at the word whose local attention is most concentrated.

    As in Figure 3: the most attended region and the top attributes of local distilling; of global
    distilling, the top regions of the group of that region, and the top collocations.
    """
    model: Any = exported.model
    maps = attention_of(exported, seen)
    local = maps.get("regions/local", maps["regions/global"])
    word = int(local.max(-1).values.argmax())
    region = int(local[word].argmax())
    group = model.groups(seen.batch)[0, region]
    words = seen.look.beams[0].words
    title = f"{' '.join(words)}   (before “{words[word]}”)"
    panels = [
        seen.panel("picture", [], []),
        seen.panel(
            "global distilling", seen.regions(group), seen.concepts(maps["concepts/global"][word])
        ),
    ]
    if "concepts/local" in maps:
        best, concepts = seen.regions(local[word])[:1], maps["concepts/local"][word]
        panels.append(seen.panel("local distilling", best, seen.concepts(concepts)))
    return title, panels


def mia_row(exported: ExportedModel, seen: Seen) -> Row:
    """What `TOP` refined features are made of after each iteration, each in its own colour.

    As in Figure 4; the features are those whose last weights are most concentrated.
    """
    with accumulated_by_mia(exported.model) as iterations:
        exported.model.encode(seen.batch)
    rows = distinct_rows(iterations[-1]["regions"][0, : len(seen.look.boxes)])
    panels = [seen.panel("picture", [], [])]
    for number, made in enumerate(iterations, 1):
        boxes, words = [], []
        for colour, row in enumerate(rows):
            boxes += seen.regions(made["regions"][0, row], colour)
            if seen.look.concepts:
                guide = row % len(seen.look.concepts)
                words += seen.concepts(made["concepts"][0, guide], colour)
        panels.append(seen.panel(f"N = {number}", boxes, words))
    return " ".join(seen.look.beams[0].words), panels


def attention_of(exported: ExportedModel, seen: Seen) -> dict[str, Tensor]:
    """(L, R) or (L, A) before each word of the stored caption."""
    words = seen.look.beams[0].words
    tokens = torch.tensor([[exported.vocab.encode(words)[1:]]])
    maps = all_attention(exported.model, seen.batch, tokens)
    return {name: weights[0, 0, : len(words)] for name, weights in maps.items()}


def top(weights: Tensor) -> list[tuple[int, float]]:
    """Indices and values of the `TOP` largest weights that are not 0."""
    values, indices = weights.topk(min(TOP, len(weights)))
    pairs = zip(indices.tolist(), values.tolist(), strict=True)
    return [(index, value) for index, value in pairs if value > 0]


def distinct_rows(weights: Tensor) -> list[int]:
    """`TOP` rows of (N, R) with the largest weights, each on another region where possible."""
    order = weights.max(-1).values.argsort(descending=True).tolist()
    best: dict[int, int] = {}
    for row in order:
        best.setdefault(int(weights[row].argmax()), row)
    return list(dict.fromkeys([*best.values(), *order]))[:TOP]
