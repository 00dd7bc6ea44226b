"""Shards of tiny features and captions of ordinary length, written fast, to measure starts on.

A caption is a random walk: a word is followed by one of a few words of its own more often than by
others, as in language, so that n-grams recur. All words follow Zipf's law.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from shards.atomic import write_json
from shards.checksum import crc32
from shards.feature_spec import FeatureSpec
from shards.index import Member, SampleIndex, write_index
from shards.manifest import MANIFEST, Manifest
from shards.ngrams import Ints
from shards.npy import encode_npy
from shards.parallel import parallel_map
from shards.shard import Shard

#: Samples per shard, captions per image, and different words.
SHARD, CAPTIONS, WORDS = 1000, 5, 100_000
#: Validation images.
VALIDATION = 100
_FOLLOWERS = 2**22


def write_shards(root: Path, images: int) -> Manifest:
    """Shards of ``images`` training images and a few of validation, as an older version built them.

    They have no counts of captions.
    """
    root.mkdir()
    jobs = [
        (root / f"{split}-{number:05d}.tar", first, min(SHARD, count - first))
        for split, count in (("train", images), ("val", VALIDATION))
        for number, first in enumerate(range(0, count, SHARD))
    ]
    shards = tuple(parallel_map(_write_shard, jobs, None, "writing", "shard"))
    manifest = Manifest(root, "made", FeatureSpec("made", 4, 1), shards)
    write_json(root / MANIFEST, manifest.to_json())
    return manifest


def _write_shard(job: tuple[Path, int, int]) -> Shard:
    path, first, count = job
    split = path.name.partition("-")[0]
    first += 10**9 * (split == "val")
    data, index = bytearray(), []
    arrays = {
        "regions.npy": encode_npy(np.ones((1, 4), np.float16)),
        "boxes.npy": encode_npy(np.array([[0, 0, 1, 1]], np.float32)),
    }
    for image, captions in zip(range(first, first + count), _captions(first, count), strict=True):
        description = {
            "image_id": image,
            "width": 0,
            "height": 0,
            "split": split,
            "captions": [" ".join(caption) for caption in captions],
            "tokens": captions,
        }
        start, members = len(data), {}
        for suffix, content in {"json": json.dumps(description).encode(), **arrays}.items():
            data += _header(f"{image:012d}.{suffix}", len(content))
            members[suffix] = Member(len(data), len(content), crc32(content))
            data += content + bytes(-len(content) % tarfile.BLOCKSIZE)
        index.append(SampleIndex(f"{image:012d}", start, members))
    data += bytes(-len(data) % tarfile.RECORDSIZE or tarfile.RECORDSIZE)
    path.write_bytes(data)
    write_index(path, index)
    digest = hashlib.sha256(data).hexdigest()
    return Shard(path.name, split, count, CAPTIONS * count, len(data), digest)


def _captions(seed: int, images: int) -> Iterator[list[list[str]]]:
    """The captions of each image: 5 of 8 to 14 words."""
    random = np.random.default_rng(seed)
    shape = (images * CAPTIONS, 14)
    followers = _followers()
    rank = random.zipf(1.5, shape).clip(max=10**6)
    words = np.empty(shape, np.int64)
    words[:, 0] = followers[rank[:, 0] % _FOLLOWERS]
    for position in range(1, shape[1]):
        mixed = words[:, position - 1] * 40_503 + rank[:, position] * 7919
        words[:, position] = followers[mixed % _FOLLOWERS]
    lengths = random.integers(8, 15, len(words)).tolist()
    texts = [
        [f"w{word}" for word in row[:length]]
        for row, length in zip(words.tolist(), lengths, strict=True)
    ]
    for image in range(images):
        yield texts[image * CAPTIONS : (image + 1) * CAPTIONS]


@cache
def _followers() -> Ints:
    """A table of words, each as often as Zipf's law says; a word has followers at many places."""
    weight = 1 / (np.arange(WORDS) + 2.7)
    return np.random.default_rng(0).choice(WORDS, _FOLLOWERS, p=weight / weight.sum())


def _header(name: str, size: int) -> bytes:
    """A ustar header, as `shards.tar` writes it, but several times faster."""
    header = bytearray(_EMPTY)
    header[: len(name)] = name.encode()
    header[124:135] = b"%011o" % size
    header[148:154] = b"%06o" % sum(header)
    return bytes(header[:154] + b"\0" + header[155:])


#: With spaces in place of the checksum, as it is defined.
_EMPTY = bytearray(tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT))
_EMPTY[148:156] = b" " * 8
