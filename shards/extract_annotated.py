"""The pictures of annotated images, and what is known about the extractor of feature files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from shards.extract import check_bad_pictures, extract
from shards.extractor_spec import EXTRACTOR, ExtractorSpec
from shards.extractors import PictureFeatures
from shards.formats import Annotation
from shards.formats.npz_blocks import NpzBlocks
from shards.joined_features import JoinedFeatures
from shards.pictures import find_pictures
from shards.schema import ShardError

#: Where a build from pictures has their features until its shards are complete.
EXTRACTED = "extracted"


def extract_annotated(
    images: Sequence[Annotation],
    pictures: Path,
    open_features: Callable[[], PictureFeatures],
    out: Path,
    max_bad: int,
    workers: int,
) -> Path:
    """Write the features of annotated images to a folder, by image id; returns the folder.

    Args:
        images: with the names of their files, with or without folders.
        pictures: the folder that has them.
        open_features: opens the backbone, after the pictures have been found.
        out: the folder for the features.
        max_bad: largest number of images without a picture that can be read.
        workers: processes that extract.

    Raises:
        ShardError: if there are more.
    """
    found = find_pictures(pictures)
    by_base: dict[str, list[Path]] = {}
    for name, path in found.items():
        by_base.setdefault(PurePosixPath(name).name, []).append(path)
    paths, bad = {}, []
    for image in images:
        same_base = by_base.get(PurePosixPath(image.file_name).name, [])
        matching = [found[image.file_name]] if image.file_name in found else same_base
        if len(matching) == 1:
            paths[str(image.image_id)] = matching[0]
        else:
            number = "several pictures" if matching else "no picture"
            bad.append(f"{pictures / image.file_name}: {number} of image {image.image_id}")
    check_bad_pictures(tuple(bad), max_bad, len(images))
    done = extract(open_features(), paths, out, workers=workers)
    check_bad_pictures((*bad, *done.bad), max_bad, len(images))
    return out


def find_extractor(
    features: JoinedFeatures, backbone: str | None, projection: str | None
) -> ExtractorSpec | None:
    """What made feature files: what `extract` recorded next to them, or what the user says.

    Args:
        features: the files.
        backbone: that made them, as the user says; None if nothing is said.
        projection: path of its projection.

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
    spec = PictureFeatures.open(backbone, Path(projection) if projection else None).spec
    if spec.dim != features.dim:
        raise ShardError(
            f"{features.paths[0]}: features of width {features.dim}, but backbone {backbone!r} "
            f"makes width {spec.dim}; give their backbone and their --projection"
        )
    scales = {part.int8_scale for part in features.parts if isinstance(part, NpzBlocks)}
    return replace(spec, scale=scales.pop() if len(scales) == 1 else ())
