"""The pictures of annotated images, and their features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from shards.extract import check_bad_pictures, extract
from shards.extractors import PictureFeatures
from shards.formats import Annotation
from shards.pictures import find_pictures

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
    paths, bad = match_pictures(images, pictures)
    check_bad_pictures(tuple(bad), max_bad, len(images))
    done = extract(open_features(), paths, out, workers=workers)
    check_bad_pictures((*bad, *done.bad), max_bad, len(images))
    return out


def match_pictures(
    images: Sequence[Annotation], pictures: Path
) -> tuple[dict[str, Path], list[str]]:
    """The picture of each annotated image by its id, and a line for each image without one.

    Raises:
        PictureError: if the folder has no pictures.
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
    return paths, bad
