"""Counts the captions of a split, in parallel; see `caption_counts` for what is kept where."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
from filelock import FileLock

from shards.caption_counts import END, CaptionCounts, counts_name, shards_digest
from shards.image_ids import image_number
from shards.manifest import Manifest
from shards.ngrams import Part, count_ngrams, merge_ngrams
from shards.parallel import parallel_map
from shards.remote.cache import Cache
from shards.schema import decode_sample_json
from shards.shard import Shard

#: Samples that are counted together, unless a shard has more.
PART = 2**14


def find_counts(manifest: Manifest, split: str, cache: Cache) -> CaptionCounts | None:
    """The counts of a split's captions, which are counted once if no file has them.

    That of a remote set is downloaded if the manifest lists one. What is counted here is kept next
    to the tars, or in ``cache`` if they are several sets, remote, in a folder that can't be written
    to, of an older build that counted less, or of a build whose file is
    missing. Other processes wait meanwhile.

    Returns:
        None if an image has no captions, or two have one id.

    Raises:
        ShardError: if the counts or the shards are damaged or can't be read.
    """
    digest, name = shards_digest(manifest, split), counts_name(split)
    copy = cache.folder / f"{digest}-{name}"
    own = manifest.counts.path(manifest.root) if manifest.counts else manifest.root / name
    for path in (own, copy):
        if counts := _load(path, digest):
            return counts
    if os.access(manifest.root, os.W_OK) and not manifest.counts:
        path = own
    else:
        path = copy
        with cache.open_for_writing():
            cache.make_room(0)
    with FileLock(path.with_name(f".{path.name}.lock")):
        # Another process may have counted them meanwhile.
        return _load(path, digest) or count_captions(manifest, split, path)


def _load(path: Path, digest: str) -> CaptionCounts | None:
    """The counts in a file, if there is one, of these shards, with all that is counted now."""
    if not path.is_file():
        return None
    counts = CaptionCounts.load(path)
    return counts if counts.shards == digest and counts.captions_with is not None else None


def count_captions(
    manifest: Manifest, split: str, path: Path, workers: int | None = None
) -> CaptionCounts | None:
    """Count the captions of a split and save the counts as ``path``.

    Returns:
        None, and nothing is saved, if an image has no captions, or two have one id.
    """
    sets = list(_parts(manifest, split))
    temporary = path.with_name(f".{path.name}.parts")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir()
    try:
        folders = [temporary / str(number) for number in range(len(sets))]
        count = partial(_count_part, split)
        parallel_map(count, list(zip(sets, folders, strict=True)), workers, "counting", "part")
        return _merge(folders, path, shards_digest(manifest, split))
    finally:
        shutil.rmtree(temporary)


def _parts(manifest: Manifest, split: str) -> Iterator[Manifest]:
    """The split in pieces of at most PART samples, or of one shard."""
    small = replace(manifest, concepts=None, left_out=(), class_names=())
    part: list[Shard] = []
    for shard in manifest.split(split):
        if part and sum(other.samples for other in part) + shard.samples > PART:
            yield replace(small, shards=tuple(part))
            part = []
        part.append(shard)
    yield replace(small, shards=tuple(part))


def _count_part(split: str, task: tuple[Manifest, Path]) -> None:
    """Count a part of a split and write the counts into a new folder."""
    manifest, folder = task
    folder.mkdir()
    ids, tokens, once, lengths = {END: 0}, list[int](), list[int](), list[int]()
    images, captions = list[int](), list[int]()
    for key, data in manifest.read(split, "json"):
        annotation = decode_sample_json(key, data)
        images.append(image_number(annotation["image_id"]))
        captions.append(len(annotation["tokens"]))
        for caption in annotation["tokens"]:
            tokens.extend([ids.setdefault(word, len(ids)) for word in caption])
            once.extend([ids[word] for word in set(caption)])
            tokens.append(0)
            lengths.append(len(caption))
    occurrences = np.bincount(tokens, minlength=len(ids))
    occurrences[0] -= len(lengths)
    np.savez(
        folder / "words.npz",
        images=np.array(images, np.int64),
        captions=np.array(captions, np.int64),
        lengths=np.bincount(lengths),
        words=np.frombuffer(json.dumps(list(ids)).encode(), np.uint8),
        occurrences=occurrences,
        captions_with=np.bincount(once, minlength=len(ids)),
    )
    starts = np.fromiter(accumulate((length + 1 for length in lengths), initial=0), np.int64)
    of_captions = np.repeat(np.arange(len(images)), captions)
    Part.save(folder, count_ngrams(np.array(tokens, np.int64), starts, of_captions))


def _merge(folders: list[Path], path: Path, digest: str) -> CaptionCounts | None:
    ids, lengths = {END: 0}, Counter[int]()
    totals = {"occurrences": Counter[int](), "captions_with": Counter[int]()}
    images, parts, complete = [], [], True
    for folder in folders:
        with np.load(folder / "words.npz") as part:
            words = json.loads(part["words"].tobytes())
            merged = [ids.setdefault(word, len(ids)) for word in words]
            for name, total in totals.items():
                total.update(dict(zip(merged, part[name].tolist(), strict=True)))
            lengths.update(dict(enumerate(part["lengths"].tolist())))
            images.append(part["images"])
            complete = complete and bool(part["captions"].all())
        parts.append(Part(folder, np.array(merged, np.int64)))
    numbers = np.concatenate(images)
    if not complete or len(np.unique(numbers)) < len(numbers):
        return None
    counts = CaptionCounts(
        path,
        digest,
        len(numbers),
        np.array([lengths[length] for length in range(max(lengths, default=0) + 1)], np.int64),
        tuple(ids),
        *(np.array([total[n] for n in range(len(ids))], np.int64) for total in totals.values()),
    )
    counts.save(merge_ngrams(parts))
    return counts
