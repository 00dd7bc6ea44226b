"""What a linear model finds in an image's features, beside what a captioner says.

The probe is the ridge regression of the shards' concepts, fitted on the training split. If a
captioner leaves out the words that the probe does not find either, features limit it, not the
captioner. Where objects are annotated, the share of them that captions name is given by size, too.

Legend: N images, W words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from capdist.data.dataset import members, references
from capdist.errors import CapdistError
from capdist.inference.given_captions import captions_by_number, read_results
from capdist.inference.grounding import Annotated
from capdist.metrics.coco import check_images
from capdist.metrics.grounding import lemma
from capdist.reporting.table import Row, format_markdown, format_table
from shards.concept_predictor import ConceptPredictor, parse_predictor
from shards.concepts import mean_average_precision, pool_regions, word_targets
from shards.image_ids import image_number
from shards.manifest import Manifest
from shards.progress import tracked
from shards.schema import Array, decode
from shards.tar import read_tar

QUARTERS = ("worst quarter", "second", "third", "best quarter")
SIZES = ("smallest third", "middle", "largest third")
#: A word belongs in the caption of an image if so many of its references have it.
AGREED = 3
COLUMNS = ("words", "probe's AP", "share said %", "mentions")
SIZE_COLUMNS = ("objects", "share named %")


@dataclass(frozen=True)
class Figures:
    """``quarters`` of the words by the probe's average precision; ``sizes`` of objects.

    Either is empty where the shards have no probe or no annotated objects.
    """

    name: str
    quarters: dict[str, Row]
    sizes: dict[str, Row]
    correlation: float | None

    def table(self) -> str:
        parts = []
        if self.quarters:
            parts += [format_table(self.quarters, COLUMNS)]
            parts += [f"correlation of ranks: {self.correlation:.2f}"]
        if self.sizes:
            parts += [format_table(self.sizes, SIZE_COLUMNS)]
        return "\n\n".join(parts)

    def to_json(self) -> Any:
        return {"words": self.quarters, "objects": self.sizes, "correlation": self.correlation}

    def page(self, command: str) -> str:
        parts = [f"# Words and objects that captions of {self.name} lack\n"]
        if self.quarters:
            parts += [
                format_markdown(self.quarters, COLUMNS),
                "\nContent words by the average precision (AP × 100) with which a ridge regression "
                "on pooled features, fitted on the training split, retrieves their images. share "
                f"said: of the images where at least {AGREED} references have the word (mentions), "
                "those whose caption has it. Spearman's correlation of the two over words: "
                f"{self.correlation:.2f}.\n",
            ]
        if self.sizes:
            parts += [
                format_markdown(self.sizes, SIZE_COLUMNS),
                "\nAnnotated objects by the share of the image that they cover, and how many of "
                "them the caption names.\n",
            ]
        return "\n".join([*parts, f"```\n{command}\n```\n"])


def measure(shards: str, split: str, results: Path) -> Figures:
    """Compare the captions in a file of COCO results with what the probe finds.

    Raises:
        CapdistError: if the shards have neither a probe nor annotated objects, or captions are
            missing.
    """
    manifest = Manifest.load(shards)
    data = manifest.read_predictor()
    if data is None and "grounding" not in members(manifest, split):
        raise CapdistError(
            f"{shards}: neither concepts of a ridge regression nor annotated objects; build shards "
            "with --concepts N"
        )
    refs, text = references(manifest, split), manifest.text
    captions = captions_by_number(read_results(results), refs)
    check_images(refs.raw, captions)
    said = {image: set(text.split(caption)) for image, caption in captions.items()}
    quarters: dict[str, Row] = {}
    correlation = None
    if data is not None:
        probe = parse_predictor(shards, data)
        scores, images = _probe(manifest, split, probe)
        counts = np.stack([word_targets(refs.tokens[i], probe.words).sum(axis=0) for i in images])
        quarters, correlation = by_word(
            scores, counts, word_targets([said[image] for image in images], probe.words)
        )
    return Figures(manifest.name, quarters, by_size(manifest, split, said), correlation)


def by_word(scores: Array, counts: Array, said: Array) -> tuple[dict[str, Row], float]:
    """Quarters of the words by the probe's precision, and how AP and share correlate.

    Args:
        scores: (N, W) of the probe.
        counts: (N, W) references that have a word.
        said: (N, W), whether the caption has it.
    """
    agreed = counts >= AGREED
    known = agreed.any(axis=0)
    precision = np.array(
        [
            mean_average_precision(scores[None, :, word], counts[None, :, word] > 0)
            for word in np.flatnonzero(known)
        ]
    )
    mentions = agreed[:, known].sum(axis=0)
    share = (agreed & (said > 0))[:, known].sum(axis=0) / mentions
    rows: dict[str, Row] = {}
    for name, words in zip(QUARTERS, np.array_split(np.argsort(precision), 4), strict=True):
        rows[name] = {
            "words": len(words),
            "probe's AP": 100 * precision[words].mean(),
            "share said %": 100 * (share * mentions)[words].sum() / mentions[words].sum(),
            "mentions": int(mentions[words].sum()),
        }
    return rows, _rank_correlation(precision, share)


def by_size(manifest: Manifest, split: str, said: Mapping[int, set[str]]) -> dict[str, Row]:
    """Thirds of the annotated objects by size; empty where there are none."""
    if "grounding" not in members(manifest, split):
        return {}
    annotated = Annotated.read(manifest, split)
    found = []
    for image, captions in annotated.references.items():
        width, height = annotated.sizes[image]
        named = {lemma(word) for word in said[image]}
        objects = {(o.name, o.boxes) for caption in captions for o in caption.objects}
        for name, boxes in objects:
            area = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes) / (width * height)
            found.append((area, lemma(name) in named))
    found.sort()
    parts = np.array_split(np.array([is_named for _, is_named in found]), len(SIZES))
    return {
        name: {"objects": len(part), "share named %": 100 * float(part.mean())}
        for name, part in zip(SIZES, parts, strict=True)
    }


def _probe(manifest: Manifest, split: str, predictor: ConceptPredictor) -> tuple[Array, list[int]]:
    """Scores (N, W) of a split's images, and their numbers."""
    images, pooled = [], []
    shards = manifest.split(split)
    for shard in tracked(shards, len(shards), title="reading regions", unit="shard"):
        for entry, files in read_tar(manifest.tar_path(shard)):
            sample = decode(entry.key, files)
            images.append(image_number(sample.image_id))
            pooled.append(pool_regions(manifest.features.dequantize(sample.regions)))
    return predictor.ridge(np.stack(pooled)), images


def _rank_correlation(a: Array, b: Array) -> float:
    """Spearman's, with the mean rank for equal values."""
    first, second = (
        np.array([(x < v).sum() + ((x == v).sum() - 1) / 2 for v in x], np.float64) for x in (a, b)
    )
    return float(np.corrcoef(first, second)[0, 1])
