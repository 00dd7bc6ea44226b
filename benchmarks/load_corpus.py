"""Synthetic images as shards, and in the formats of the peers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.corpus import LENGTH, REFERENCES, VOCABULARY
from capdist.vocab import SPECIALS, Vocabulary
from shards.feature_spec import FeatureSpec
from shards.index import index_path
from shards.manifest import MANIFEST, Manifest
from shards.schema import Array, RegionSet, Sample
from shards.write_set import SetSample, write_set
from shards.writer import write

REGIONS, FEATURES, IN_SHARD = 36, 2048, 64
WORDS = tuple(f"word{number}" for number in range(VOCABULARY - len(SPECIALS)))
VOCAB = Vocabulary(WORDS)


@dataclass(frozen=True)
class SyntheticSource:
    """A source of ``images`` training images with regions of width ``dim`` and five captions."""

    images: int
    dim: int = FEATURES
    regions: int = REGIONS
    name: str = "synthetic"
    class_names: tuple[str, ...] = ()

    @property
    def features(self) -> FeatureSpec:
        return FeatureSpec("random", self.dim, self.regions)

    def fingerprint(self) -> str:
        return self.name

    def splits(self) -> dict[str, Sequence[int]]:
        return {"train": range(self.images)}

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for number in ids:
            rng = np.random.default_rng(number)
            features = random_regions(rng, self.regions, self.dim)
            lengths = rng.integers(*LENGTH, REFERENCES)
            words = (rng.integers(0, len(WORDS), length) for length in lengths)
            tokens = tuple(tuple(WORDS[word] for word in caption) for caption in words)
            yield Sample(
                key=f"{number:012d}",
                image_id=number,
                width=640,
                height=480,
                split=split,
                captions=tuple(" ".join(caption) for caption in tokens),
                tokens=tokens,
                regions=features.regions,
                boxes=features.boxes,
            )


def random_regions(rng: np.random.Generator, count: int, dim: int) -> RegionSet:
    """Random features and boxes."""
    # Two corners, the upper left one first.
    boxes = np.sort(rng.random((count, 2, 2)), 1).astype(np.float32).reshape(-1, 4)
    return RegionSet(rng.standard_normal((count, dim)).astype(np.float16), boxes)


@dataclass(frozen=True)
class SecondSet:
    """A source of a further feature set, of half as many regions."""

    name: str = "second"

    @property
    def features(self) -> FeatureSpec:
        return FeatureSpec("random", FEATURES, REGIONS // 2)

    def fingerprint(self) -> str:
        return self.name

    def load(self, samples: Sequence[SetSample]) -> Iterator[RegionSet]:
        for sample in samples:
            rng = np.random.default_rng((1, int(sample.image_id)))
            yield random_regions(rng, REGIONS // 2, FEATURES)


def two_sets(root: Path, images: int) -> Manifest:
    """The images with two feature sets, which have as many bytes as the one of `Corpus`."""
    source = SyntheticSource(images, regions=REGIONS - REGIONS // 2)
    write(source, root, samples_per_shard=IN_SHARD, workers=1)
    return write_set(root, SecondSet(), workers=1).reading(("regions", "second"))


@dataclass(frozen=True)
class Corpus:
    """The images as shards, a folder of npz files, an HDF5 file and an LMDB.

    ``words``: the captions' token ids, which loaders without shards keep in memory.
    """

    root: Path
    manifest: Manifest
    words: list[list[list[int]]]

    @classmethod
    def make(cls, root: Path, images: int) -> Corpus:
        """Write the images in all formats."""
        source = SyntheticSource(images)
        manifest = write(source, root / "shards", samples_per_shard=IN_SHARD, workers=1)
        corpus = cls(root, manifest, [])
        corpus._write(images, source.load("train", range(images)))
        return corpus

    def _write(self, images: int, samples: Iterator[Sample]) -> None:
        import h5py
        import lmdb

        (self.root / "npz").mkdir()
        map_size = images * REGIONS * FEATURES * 4 + 2**24
        with h5py.File(self.root / "h5", "w") as h5, lmdb.open(self.lmdb, map_size=map_size) as db:
            features = h5.create_dataset("features", (images, REGIONS, FEATURES), np.float16)
            boxes = h5.create_dataset("boxes", (images, REGIONS, 4), np.float32)
            for number, sample in enumerate(samples):
                np.savez(self.npz(number), features=sample.regions, boxes=sample.boxes)
                features[number], boxes[number] = sample.regions, sample.boxes
                with db.begin(write=True) as transaction:
                    transaction.put(f"{number}/features".encode(), sample.regions.tobytes())
                    transaction.put(f"{number}/boxes".encode(), sample.boxes.tobytes())
                self.words.append([VOCAB.encode(caption) for caption in sample.tokens])

    @property
    def lmdb(self) -> str:
        return str(self.root / "lmdb")

    def npz(self, number: int) -> Path:
        return self.root / "npz" / f"{number}.npz"

    @property
    def tars(self) -> list[str]:
        return [str(self.manifest.tar_path(shard)) for shard in self.manifest.shards]


def many_shards(root: Path, count: int, samples: int) -> Path:
    """A folder of ``count`` shards: hard links to one tar, each with its own index."""
    manifest = write(SyntheticSource(samples, dim=8), root, samples_per_shard=samples, workers=1)
    fields, (first,) = manifest.to_json(), manifest.shards
    tar = manifest.tar_path(first)
    fields["shards"] = []
    for number in range(count):
        name = f"train-{number:05d}.tar"
        fields["shards"].append({**vars(first), "name": name})
        if name != first.name:
            (root / name).hardlink_to(tar)
            shutil.copy(index_path(tar), index_path(root / name))
    (root / MANIFEST).write_text(json.dumps(fields))
    return root


def pad(arrays: Sequence[Array]) -> Array:
    """Stack arrays, with zeros after the shorter ones."""
    longest = max(len(array) for array in arrays)
    if all(len(array) == longest for array in arrays):
        return np.stack(arrays)
    padded = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), arrays[0].dtype)
    for number, array in enumerate(arrays):
        padded[number, : len(array)] = array
    return padded


def pad_words(words: Sequence[Sequence[Sequence[int]]]) -> Array:
    """Captions (B, S, L), padded with PAD."""
    captions = max(len(of_image) for of_image in words)
    length = max(len(caption) for of_image in words for caption in of_image)
    padded = np.zeros((len(words), captions, length), np.int64)
    for number, of_image in enumerate(words):
        for row, caption in enumerate(of_image):
            padded[number, row, : len(caption)] = caption
    return padded
