"""Several folders of shards as one set: what ``data.shards`` of a config names.

The training split is that of all sets together, each as often as its ``repeats`` or ``proportion``
says, in the order that `order.py` defines. Every other split is the first set's: what is validated
and tested on is one set, and how much others train along does not change it.

A union is a `Manifest` like another, whose shards have absolute names, so that every reader reads
it. Words, concepts and rewards count each image once, however often it is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from capdist.config.data import DataConfig, ShardSet
from capdist.data.order import Part
from shards.concept_files import ConceptSet
from shards.manifest import Manifest, Shard
from shards.schema import ShardError


def load_shards(data: DataConfig) -> Manifest:
    """The manifest of one folder or URL, or the union of several.

    Raises:
        ShardError: if a folder has no shards, or the sets do not fit each other.
    """
    if isinstance(data.shards, str):
        return Manifest.load(data.shards, data.copies)
    return unite([Manifest.load(part.shards, data.copies) for part in data.shards])


def unite(sets: Sequence[Manifest]) -> Manifest:
    """The training splits of all sets, and the first one's other splits.

    That no image id occurs twice is seen where captions are read, by `dataset.references`.

    Raises:
        ShardError: naming the first set that does not fit.
    """
    first = sets[0]
    for number, part in enumerate(sets):
        if part.root.resolve() in {other.root.resolve() for other in sets[:number]}:
            raise ShardError(f"{part.root}: twice in data.shards; list it once, with more repeats")
        _check(first, part)
    others = [_named(first, shard) for shard in first.shards if shard.split != "train"]
    return Manifest(
        root=Path(" + ".join(str(part.root) for part in sets)),  # no folder: a name in messages
        name=" + ".join(part.name for part in sets),
        features=replace(first.features, max_regions=max(s.features.max_regions for s in sets)),
        shards=(*(_named(part, s) for part in sets for s in part.split("train")), *others),
        class_names=first.class_names,
        concepts=_concepts(sets),
    )


def brought(sets: Sequence[ShardSet], counts: Sequence[int]) -> list[int]:
    """Images that every set brings into an epoch, at least one; ``counts`` are those that it has.

    Where some sets have repeats and bring m images together, and the others' proportions are p, an
    epoch has m / (1 - Σp) images; where all have proportions, as many as all sets have. Of these
    a set brings its proportion, rounded.
    """
    repeated = [
        0 if part.proportion else max(1, round((part.repeats or 1.0) * count))
        for part, count in zip(sets, counts, strict=True)
    ]
    rest = 1 - math.fsum(part.proportion or 0.0 for part in sets)
    epoch = sum(repeated) / rest if any(repeated) else sum(counts)
    return [
        max(1, round(part.proportion * epoch)) if part.proportion else images
        for part, images in zip(sets, repeated, strict=True)
    ]


def parts(manifest: Manifest, shards: str | Sequence[ShardSet]) -> tuple[Part, ...]:
    """Every set's number of training shards and what it brings; nothing for one folder."""
    if isinstance(shards, str):
        return ()
    mine = _by_set(manifest)
    images = brought(shards, [_samples(part) for part in mine])
    return tuple(Part(len(part), images) for part, images in zip(mine, images, strict=True))


def describe(manifest: Manifest, shards: str | Sequence[ShardSet]) -> list[str]:
    """A line on every set: what it brings into an epoch."""
    if isinstance(shards, str):
        return []
    counts = [_samples(mine) for mine in _by_set(manifest)]
    images = brought(shards, counts)
    return [
        f"{part.shards}: {mine} of {sum(images)} images of an epoch "
        f"({100 * mine / sum(images):.1f} %); it has {count}"
        for part, mine, count in zip(shards, images, counts, strict=True)
    ]


def _by_set(manifest: Manifest) -> list[list[Shard]]:
    """A union's training shards, set by set."""
    train = manifest.split("train")
    return [list(mine) for _, mine in groupby(train, lambda shard: Path(shard.name).parent)]


def _samples(shards: Sequence[Shard]) -> int:
    return sum(shard.samples for shard in shards)


def _check(first: Manifest, other: Manifest) -> None:
    """Refuse sets that one model can't read."""
    have, has = first.features, other.features
    if (have.name, have.dim) != (has.name, has.dim):
        raise ShardError(
            f"{other.root}: features {has.name!r} of width {has.dim}, but {first.root} has "
            f"{have.name!r} of width {have.dim}; mix sets of the same extractor"
        )
    if difference := have.fingerprint.difference(has.fingerprint):
        raise ShardError(
            f"{other.root}: features {has.name!r} {difference} than those of {first.root}; mix "
            "sets of the same extractor"
        )
    if have.scale != has.scale:
        raise ShardError(
            f"{other.root}: regions of {has.stored_dtype} with other scales than {first.root}; "
            "build sets that are mixed with --storage fp16"
        )
    if first.class_names != other.class_names:
        raise ShardError(
            f"{other.root}: its {len(other.class_names)} class names are not the "
            f"{len(first.class_names)} of {first.root}; build both with the same --class-names"
        )
    if _detector(first) != _detector(other):
        raise ShardError(
            f"{other.root}: concepts of {_detector(other)}, but {first.root} has those of "
            f"{_detector(first)}; give both those of one detector, by launcher/concepts.py"
        )


def _detector(manifest: Manifest) -> str:
    return f"detector {manifest.concepts.detector}" if manifest.concepts else "the tars"


def _named(manifest: Manifest, shard: Shard) -> Shard:
    return replace(shard, name=str(manifest.root.absolute() / shard.name))


def _concepts(sets: Sequence[Manifest]) -> ConceptSet | None:
    """Those beside the tars of all sets, if there are any."""
    found = [part.concepts for part in sets if part.concepts]
    if not found:
        return None
    files = {
        str(concepts.root.absolute() / shard): replace(
            file, name=str(concepts.root.absolute() / file.name)
        )
        for concepts in found
        for shard, file in concepts.files.items()
    }
    return replace(found[0], kept=max(concepts.kept for concepts in found), files=files)
