"""Features of a folder of pictures: one npz file for each, in a folder that a build reads.

A stopped extraction continues: pictures that have a file are not read again. ``extractor.json``
says what made the features, for the manifest of shards that are built from them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from shards.atomic import atomic_write, remove_temporary_files, write_json
from shards.extractor_spec import EXTRACTOR, ExtractorSpec
from shards.extractors import PictureFeatures
from shards.extractors.grid import limit_threads
from shards.feature_scan import check_bad_count
from shards.folder_lock import LOCK, OWNER, folder_lock
from shards.formats import RegionFeatures
from shards.parallel import parallel_results
from shards.picture_batches import BATCH, features_of
from shards.progress import Progress
from shards.schema import ShardError

#: Batches that a process is given at a time.
_BATCHES = 4


@dataclass(frozen=True)
class Extraction:
    """What a folder of features has: how many pictures, and a line for each bad one."""

    done: int
    bad: tuple[str, ...]


def extract(
    features: PictureFeatures,
    pictures: Mapping[str, Path],
    out: Path,
    batch: int = BATCH,
    workers: int = 1,
    run_chunks: RunChunks | None = None,
) -> Extraction:
    """Write the features of pictures as ``<name>.npz``, with a progress bar.

    Args:
        features: the backbone.
        pictures: paths by the names of their features.
        out: folder; made if it does not exist.
        batch: pictures at a time.
        workers: processes, each with a network of its own; with 1, everything runs in this one.
        run_chunks: runs the chunks elsewhere, instead of ``workers``.

    Raises:
        ShardError: if the folder has features of another extractor, a process died, or features
            were written into a folder that this process does not see.
        CapdistError: if another process writes to the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out, "writing to", "choose another folder"):
        _prepare_folder(out, features.spec)
        return _extract_missing(features, pictures, out, batch, workers, run_chunks)


def _extract_missing(
    features: PictureFeatures,
    pictures: Mapping[str, Path],
    out: Path,
    batch: int,
    workers: int,
    run_chunks: RunChunks | None,
) -> Extraction:
    missing = {name: path for name, path in pictures.items() if not _file(out, name).is_file()}
    if run_chunks is None and workers > 1 and len(missing) > batch * _BATCHES:
        run_chunks = _Processes(workers)
    bad: list[str] = []
    done = len(pictures) - len(missing)
    with Progress(len(pictures), title="extracting", unit="image", initial=done) as bar:
        if run_chunks is None:
            for problem in _write_features(features, missing, out, batch):
                bad += [problem] if problem else []
                bar.advance()
        else:
            chunks = list(_chunks(missing, batch * _BATCHES))
            extract_chunk = ExtractChunk(features.spec, out.resolve(), batch, run_chunks.threads)
            for chunk, found in zip(chunks, run_chunks(extract_chunk, chunks), strict=True):
                bad += found
                bar.advance(len(chunk))
    _check_written(missing, out, len(bad))
    return Extraction(len(pictures) - len(bad), tuple(bad))


@dataclass(frozen=True)
class ExtractChunk:
    """Extracts some of the pictures in a process of its own; returns a line for each bad one.

    A chunk that is extracted again, because a process was lost, gives the same bytes.
    """

    spec: ExtractorSpec
    out: Path
    batch: int
    threads: int

    def __call__(self, pictures: dict[str, Path]) -> list[str]:
        features = _open(self.spec, self.threads)
        return list(filter(None, _write_features(features, pictures, self.out, self.batch)))


class RunChunks(Protocol):
    """Runs chunks in other processes, each of which computes with ``threads`` threads."""

    @property
    def threads(self) -> int: ...

    def __call__(
        self, extract_chunk: ExtractChunk, chunks: Sequence[dict[str, Path]]
    ) -> Iterable[list[str]]:
        """The bad pictures of each chunk, in their order."""


@dataclass(frozen=True)
class _Processes:
    """Runs chunks in processes on this machine."""

    workers: int

    @property
    def threads(self) -> int:
        return max(1, (os.cpu_count() or 1) // self.workers)

    def __call__(
        self, extract_chunk: ExtractChunk, chunks: Sequence[dict[str, Path]]
    ) -> Iterator[list[str]]:
        return parallel_results(extract_chunk, chunks, self.workers, "extracting")


@cache
def _open(spec: ExtractorSpec, threads: int) -> PictureFeatures:
    limit_threads(threads)
    return PictureFeatures.reopen(spec)


def _check_written(names: Iterable[str], out: Path, bad: int) -> None:
    """Refuse features that went into a folder that this process does not see."""
    missing = [name for name in names if not _file(out, name).is_file()]
    if len(missing) > bad:
        raise ShardError(
            f"{_file(out, missing[0])}: no such file after the extraction, as for "
            f"{len(missing) - bad - 1} others; give an --out that all machines have in common"
        )


def _chunks(pictures: Mapping[str, Path], size: int) -> Iterator[dict[str, Path]]:
    items = iter(pictures.items())
    while chunk := dict(islice(items, size)):
        yield chunk


def _write_features(
    features: PictureFeatures, pictures: Mapping[str, Path], out: Path, batch: int
) -> Iterator[str]:
    """Write the features of each picture; what is wrong with it, or an empty text."""
    for found in chain.from_iterable(features_of(features, pictures, batch)):
        if found.features:
            _write(_file(out, found.name), found.features)
        yield found.problem


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
        ShardError: with the first and their number, or if no picture is left.
    """
    check_bad_count(bad, max_bad, f"{count} pictures")
    if bad and len(bad) == count:
        raise ShardError(f"{bad[0]}; no picture is left")
    for line in bad:
        print(f"bad: {line}")


def _prepare_folder(out: Path, spec: ExtractorSpec) -> None:
    record = out / EXTRACTOR
    if record.is_file():
        if ExtractorSpec.load(record) != spec:
            raise ShardError(
                f"{out}: has features of another extractor; give another folder, or delete it"
            )
    elif any(path.name not in (LOCK, OWNER) for path in out.iterdir()):
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
