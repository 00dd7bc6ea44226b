"""The extractor of feature files: what is recorded next to them, or what the user states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from shards.extract_annotated import match_pictures
from shards.extractor_spec import EXTRACTOR, ExtractorSpec
from shards.extractors import PictureFeatures
from shards.formats import Annotation
from shards.formats.npz_blocks import NpzBlocks
from shards.joined_features import JoinedFeatures
from shards.picture_batches import features_of
from shards.schema import ShardError

#: Pictures whose features are compared with those of the files.
_COMPARED = 16
#: Largest relative error. On Flickr8k, 8 bits have 0.01, the same network padded otherwise 0.93.
_MAX_ERROR = 0.1


def find_extractor(
    features: JoinedFeatures,
    backbone: str | None,
    projection: str | None,
    images: Sequence[Annotation] = (),
    pictures: Path | None = None,
) -> ExtractorSpec | None:
    """What made feature files: what `extract` recorded next to them, or what the user says.

    Args:
        features: the files.
        backbone: that made them, as the user says; None if nothing is said.
        projection: path of its projection.
        images: with the ids of their features.
        pictures: their folder, to compare the backbone's features with those of the files.

    Raises:
        ShardError: if files have different records, or the backbone makes other features.
    """
    records = {part.paths[0]: part.paths[0] / EXTRACTOR for part in features.parts}
    found = [ExtractorSpec.load(path) for path in records.values() if path.is_file()]
    if found:
        for other in found[1:]:
            if other != found[0]:
                raise ShardError(
                    f"{', '.join(map(str, records))}: extracted by different backbones; use "
                    "features of one extractor"
                )
        if backbone:
            raise ShardError(
                f"{features.paths[0]}: extracted by {found[0].backbone!r}; leave out --backbone"
            )
        return found[0]
    if backbone is None:
        return None
    opened = PictureFeatures.open(backbone, Path(projection) if projection else None)
    spec = opened.spec
    if spec.dim != features.dim:
        raise ShardError(
            f"{features.paths[0]}: features of width {features.dim}, but backbone {backbone!r} "
            f"makes width {spec.dim}; give their backbone and their --projection"
        )
    scales = {part.int8_scale for part in features.parts if isinstance(part, NpzBlocks)}
    stated = replace(spec, scale=scales.pop() if len(scales) == 1 else ())
    if pictures:
        _compare(replace(opened, spec=stated), features, images, pictures)
    return stated


def _compare(
    made_by: PictureFeatures, stored: JoinedFeatures, images: Sequence[Annotation], pictures: Path
) -> None:
    """Refuse a backbone whose features of some pictures are not those of the files.

    Raises:
        ShardError: with the relative error √(Σ(x̂ − x)² / Σx²).
    """
    paths, _ = match_pictures(images, pictures)
    with_both = {
        str(image.image_id): image.feature_id
        for image in images
        if str(image.image_id) in paths and image.feature_id in stored
    }
    if not with_both:
        raise ShardError(f"{pictures}: no picture of an image with features; give their folder")
    compared = list(with_both)[:: -(-len(with_both) // _COMPARED)]
    error = total = 0.0
    chosen = {image: paths[image] for image in compared}
    for found in chain.from_iterable(features_of(made_by, chosen)):
        if found.features is None:
            raise ShardError(found.problem)
        x = stored.read(with_both[found.name]).regions.astype(np.float64)
        made = found.features.regions.astype(np.float64)
        error += ((made - x) ** 2).sum() if made.shape == x.shape else np.inf
        total += (x**2).sum()
    relative = float(np.sqrt(error / max(total, np.finfo(float).tiny)))
    if relative > _MAX_ERROR:
        raise ShardError(
            f"{stored.paths[0]}: features differ from those that backbone "
            f"{made_by.spec.backbone!r} makes of {len(compared)} pictures (relative error "
            f"{relative:.2f}, at most {_MAX_ERROR} expected); give their backbone and projection"
        )
    print(f"features of {len(compared)} pictures: relative error {relative:.2g}")
