"""Several folders of shards as one set: what ``data.shards`` of a config names.

The training split is that of all sets together, each seen as often as its ``repeats`` or
``proportion`` says, in the order that `order.py` defines. All other splits are the first set's, so
that validation and test do not depend on which sets are added for training.

The merged manifest is an ordinary `Manifest` whose shards have absolute names, so that every reader
can read it. Vocabulary, concepts and rewards count each image once, however often it is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from capdist.config.data import DataConfig, ShardSet
from capdist.data.order import MixtureSet
from shards.concept_files import ConceptSet
from shards.concept_predictor import PredictorFile
from shards.feature_sets import FeatureSet
from shards.manifest import Manifest
from shards.schema import ShardError
from shards.shard import Shard


def load_shards(data: DataConfig, features: tuple[str, ...] = ()) -> Manifest:
    """The manifest of one folder or URL, or the merged manifest of several.

    ``features`` are the feature sets that are read, as `Manifest.reading` has them.

    Raises:
        ShardError: if a folder has no shards, or the sets can't be mixed.
    """
    if isinstance(data.shards, str):
        return Manifest.load(data.shards, data.copies).reading(features)
    sets = [Manifest.load(part.shards, data.copies).reading(features) for part in data.shards]
    return merge_manifests(sets, accept_features=data.accept_features)


def merge_manifests(sets: Sequence[Manifest], *, accept_features: bool = False) -> Manifest:
    """The training splits of all sets, and the first one's other splits.

    `dataset.references` checks that no image id occurs twice, as it reads the captions.

    Raises:
        ShardError: naming the first set that can't be mixed with the first.
    """
    first = sets[0]
    for number, part in enumerate(sets):
        if part.root.resolve() in {other.root.resolve() for other in sets[:number]}:
            raise ShardError(
                f"{part.root}: listed twice in data.shards; list it once, with higher repeats"
            )
        _check(first, part, accept_features)
    read = tuple(_merged_set(sets, number) for number in range(len(first.chosen_sets)))
    others = [_with_absolute_name(first, shard) for shard in first.shards if shard.split != "train"]
    train = [_with_absolute_name(part, shard) for part in sets for shard in part.split("train")]
    return Manifest(
        root=Path(" + ".join(str(part.root) for part in sets)),  # a name for messages, not a folder
        name=" + ".join(part.name for part in sets),
        features=read[0].spec,
        read_sets=read,
        shards=(*train, *others),
        class_names=first.class_names,
        predicates=first.predicates,
        text=first.text,
        concepts=_concepts(sets),
        tar_predictor=_predictor(first),
    )


def images_per_epoch(sets: Sequence[ShardSet], counts: Sequence[int]) -> list[int]:
    """How many images of every set an epoch sees, one or more; ``counts`` are the sets' sizes.

    If the sets with repeats contribute m images and the others have proportions p, an epoch has
    m / (1 - Σp) images; if all sets have proportions, as many as all sets have together. A set
    with a proportion contributes its share of these, rounded.
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


def mixture_sets(manifest: Manifest, shards: str | Sequence[ShardSet]) -> tuple[MixtureSet, ...]:
    """Every set's number of training shards and of images per epoch; empty for one folder."""
    if isinstance(shards, str):
        return ()
    mine = _by_set(manifest)
    images = images_per_epoch(shards, [_samples(part) for part in mine])
    return tuple(MixtureSet(len(part), images) for part, images in zip(mine, images, strict=True))


def describe(manifest: Manifest, shards: str | Sequence[ShardSet]) -> list[str]:
    """One line per set: how many images of it an epoch sees."""
    if isinstance(shards, str):
        return []
    counts = [_samples(mine) for mine in _by_set(manifest)]
    images = images_per_epoch(shards, counts)
    return [
        f"{part.shards}: {mine} of {sum(images)} images of an epoch "
        f"({100 * mine / sum(images):.1f} %); the set has {count}"
        for part, mine, count in zip(shards, images, counts, strict=True)
    ]


def _by_set(manifest: Manifest) -> list[list[Shard]]:
    """A merged manifest's training shards, set by set."""
    train = manifest.split("train")
    return [list(mine) for _, mine in groupby(train, lambda shard: Path(shard.name).parent)]


def _samples(shards: Sequence[Shard]) -> int:
    return sum(shard.samples for shard in shards)


def _merged_set(sets: Sequence[Manifest], number: int) -> FeatureSet:
    """A feature set that is read, of all sets of shards."""
    found = [part.chosen_sets[number] for part in sets]
    spec = replace(found[0].spec, max_regions=max(one.spec.max_regions for one in found))
    if found[0].tars is None:
        return FeatureSet(found[0].name, spec)
    tars, images = dict[str, Shard](), dict[str, int]()
    for part, one in zip(sets, found, strict=True):
        for shard in part.shards:
            name = _with_absolute_name(part, shard).name
            tars[name] = _with_absolute_name(part, one.tar_of(shard))
            images[name] = shard.samples - one.lacking(shard)
    return FeatureSet(found[0].name, spec, tars, images)


def _check(first: Manifest, other: Manifest, accept_features: bool) -> None:
    """Refuse a set whose features, classes or concepts differ from the first one's.

    If ``accept_features``, the features' statistics may differ.
    """
    for ours, theirs in zip(first.chosen_sets, other.chosen_sets, strict=True):
        _check_set(first, ours, other, theirs, accept_features)
    if first.class_names != other.class_names:
        raise ShardError(
            f"{other.root}: its {len(other.class_names)} class names are not the "
            f"{len(first.class_names)} of {first.root}; build both with the same --class-names"
        )
    if first.predicates != other.predicates:
        raise ShardError(
            f"{other.root}: its {len(other.predicates)} predicates are not the "
            f"{len(first.predicates)} of {first.root}; mix sets with the same ones"
        )
    if first.text.tokeniser != other.text.tokeniser:
        raise ShardError(
            f"{other.root}: captions of tokeniser {other.text.tokeniser}, expected "
            f"{first.text.tokeniser} as in {first.root}; build both with the same --tokeniser"
        )
    if _detector(first) != _detector(other):
        raise ShardError(
            f"{other.root}: concepts of {_detector(other)}, expected those of {_detector(first)} "
            f"as in {first.root}; write both sets' with one detector, by capdist concepts"
        )


def _check_set(
    first: Manifest, ours: FeatureSet, other: Manifest, theirs: FeatureSet, accept_features: bool
) -> None:
    """As `_check`, of one feature set that is read."""
    if (ours.tars is None) != (theirs.tars is None):
        raise ShardError(
            f"{other.root}: feature set {theirs.name!r} is its own, or is not, unlike in "
            f"{first.root}; build both with the same --features"
        )
    mine, found = ours.spec, theirs.spec
    if not mine.same_name(found):
        raise ShardError(
            f"{other.root}: features {found.name!r} of width {found.dim}, expected "
            f"{mine.name!r} of width {mine.dim} as in {first.root}; mix sets of the same extractor"
        )
    difference = mine.fingerprint.difference(found.fingerprint)
    if difference and not accept_features:
        raise ShardError(
            f"{other.root}: features {found.name!r} {difference} than those of {first.root}; mix "
            "sets of the same extractor, or accept these with data.accept_features=true"
        )
    if mine.scale != found.scale:
        raise ShardError(
            f"{other.root}: {found.stored_dtype} regions with other scales than in {first.root}; "
            "build both with --storage fp16"
        )


def _detector(manifest: Manifest) -> str:
    return f"detector {manifest.concepts.detector}" if manifest.concepts else "the tars"


def _predictor(first: Manifest) -> PredictorFile | None:
    """The predictor of the first set's tars: validation and test are that set's."""
    file = first.tar_predictor
    return file and replace(file, name=str(first.root.absolute() / file.name))


def _with_absolute_name(manifest: Manifest, shard: Shard) -> Shard:
    return replace(shard, name=str(manifest.root.absolute() / shard.name))


def _concepts(sets: Sequence[Manifest]) -> ConceptSet | None:
    """The concept files of all sets, if there are any."""
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
