"""Features of a folder of pictures: one npz file for each, in a folder that a build reads.

A stopped extraction continues: pictures that have a file are not read again. ``extractor.json``
says what made the features, for the manifest of shards that are built from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePosixPath

import numpy as np
from PIL.Image import Image
from tqdm import tqdm

from shards.atomic import atomic_write, remove_temporary_files, write_json
from shards.extractor_spec import EXTRACTOR, ExtractorSpec
from shards.extractors import PictureFeatures
from shards.feature_scan import check_bad_count
from shards.formats import RegionFeatures
from shards.pictures import PictureError, read_picture, to_rgb
from shards.schema import Array, ShardError
from shards.storage import to_float16

#: Pictures that go through the network together.
BATCH = 32
# Threads that decode pictures, each of which may take `pictures.MAX_PIXELS`.
_THREADS = 4


@dataclass(frozen=True, eq=False)
class Extracted:
    """The features of one picture, with boxes in [0, 1], or what is wrong with its file."""

    name: str
    features: RegionFeatures | None
    problem: str = ""


@dataclass(frozen=True)
class Extraction:
    """What a folder of features has: how many pictures, and a line for each bad one."""

    done: int
    bad: tuple[str, ...]


def extract(
    features: PictureFeatures, pictures: Mapping[str, Path], out: Path, batch: int = BATCH
) -> Extraction:
    """Write the features of pictures as ``<name>.npz``, with a progress bar.

    Args:
        features: the backbone.
        pictures: paths by the names of their features.
        out: folder; made if it does not exist.
        batch: pictures at a time.

    Raises:
        ShardError: if the folder has features of another extractor.
    """
    _prepare_folder(out, features.spec)
    missing = {name: path for name, path in pictures.items() if not _file(out, name).is_file()}
    bad = []
    with tqdm(
        total=len(pictures), initial=len(pictures) - len(missing), desc="extracting", unit="image"
    ) as bar:
        for found in chain.from_iterable(features_of(features, missing, batch)):
            if found.features is None:
                bad.append(found.problem)
            else:
                _write(_file(out, found.name), found.features)
            bar.update()
    return Extraction(len(pictures) - len(bad), tuple(bad))


def unique_names(pictures: Mapping[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """The pictures by name without ending, and a line for each whose name another one has."""
    unique: dict[str, Path] = {}
    repeated = []
    for name, path in pictures.items():
        stem = PurePosixPath(name).with_suffix("").as_posix()
        if stem in unique:
            repeated.append(f"{path}: its features have the name of {unique[stem]}; rename it")
        else:
            unique[stem] = path
    return unique, repeated


def check_bad_pictures(bad: tuple[str, ...], max_bad: int, count: int) -> None:
    """Refuse more than ``max_bad`` of ``count`` pictures that can't be read, or print them.

    Raises:
        ShardError: with the first and their number.
    """
    check_bad_count(bad, max_bad, f"{count} pictures")
    for line in bad:
        print(f"bad: {line}")


def features_of(
    features: PictureFeatures, pictures: Mapping[str, Path | Image], batch: int = BATCH
) -> Iterator[list[Extracted]]:
    """The features of each batch of pictures; threads read the next batch meanwhile.

    Args:
        features: the backbone.
        pictures: paths, or pictures in memory, by name.
        batch: pictures at a time.
    """
    left = iter(pictures.items())
    with ThreadPoolExecutor(_THREADS) as threads:

        def start() -> list[tuple[str, Future[_Read]]]:
            return [
                (name, threads.submit(_read, features, path)) for name, path in islice(left, batch)
            ]

        reading = start()
        while reading:
            following = start()
            yield _run(features, reading)
            reading = following


@dataclass(frozen=True, eq=False)
class _Read:
    """A picture's pixels for the network, and its own size."""

    pixels: Array
    width: int
    height: int


def _read(features: PictureFeatures, given: Path | Image) -> _Read:
    picture = read_picture(given) if isinstance(given, Path) else to_rgb(given)
    return _Read(features.prepare(picture), picture.width, picture.height)


def _run(features: PictureFeatures, reading: list[tuple[str, Future[_Read]]]) -> list[Extracted]:
    read: dict[str, _Read] = {}
    problems: dict[str, str] = {}
    for name, future in reading:
        try:
            read[name] = future.result()
        except PictureError as error:
            problems[name] = str(error)
    made = features([picture.pixels for picture in read.values()]) if read else []
    by_name = {
        name: _with_size(regions, read[name]) for name, regions in zip(read, made, strict=True)
    }
    return [Extracted(name, by_name.get(name), problems.get(name, "")) for name, _ in reading]


def _with_size(features: RegionFeatures, picture: _Read) -> RegionFeatures:
    return RegionFeatures(
        to_float16(features.regions),
        features.boxes,
        features.classes,
        picture.width,
        picture.height,
    )


def _prepare_folder(out: Path, spec: ExtractorSpec) -> None:
    out.mkdir(parents=True, exist_ok=True)
    record = out / EXTRACTOR
    if record.is_file():
        if ExtractorSpec.load(record) != spec:
            raise ShardError(
                f"{out}: has features of another extractor; give another folder, or delete it"
            )
    elif any(out.iterdir()):
        raise ShardError(f"{out}: has other files; give another folder")
    remove_temporary_files(out)
    write_json(record, spec.to_json())


def _file(out: Path, name: str) -> Path:
    """The file of a picture's features; an image id in captions may be any text.

    Raises:
        ShardError: if the name leads out of the folder.
    """
    path = out / f"{name}.npz"
    if not path.resolve().is_relative_to(out.resolve()):
        raise ShardError(f"image id {name!r}: leads out of {out}; change it")
    return path


def _write(path: Path, features: RegionFeatures) -> None:
    """Write one picture's features; boxes in pixels, as in all files of this format."""
    assert features.boxes is not None
    size = np.array([features.width, features.height] * 2, np.float64)
    arrays = {
        "features": features.regions,
        "boxes": features.boxes * size,
        "image_w": np.array(features.width),
        "image_h": np.array(features.height),
    }
    if features.classes is not None:
        arrays["classes"] = features.classes
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its own option is a bool
