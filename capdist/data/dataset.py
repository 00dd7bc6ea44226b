"""References and batches of a folder of shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from capdist.config.data import DataConfig
from capdist.config.stage import BatchConfig
from capdist.data.batches import Batches
from capdist.data.collate import Collate
from capdist.data.encoded_sample import SampleEncoder
from capdist.data.mixture import mixture_sets
from capdist.data.order import Order
from capdist.data.rank_plan import RankPlan, Ranks
from capdist.data.reader import make_reader
from capdist.data.residency import ResidentRegions, lock_pages
from capdist.data.sample_store import OF_REGIONS, SampleStore
from capdist.vocab import Vocabulary, WordIds
from shards.image_ids import image_number
from shards.json_types import ImageId
from shards.manifest import Manifest
from shards.progress import tracked
from shards.schema import ShardError, decode_sample_json

T = TypeVar("T")


@dataclass(frozen=True)
class References:
    """Captions of a split by image number, raw and as tokens.

    ``ids`` has the image id of each number, see `image_number`: they differ if ids are texts.
    """

    raw: dict[int, tuple[str, ...]]
    tokens: dict[int, tuple[tuple[str, ...], ...]]
    ids: dict[int, ImageId]

    def by_id(self, by_number: Mapping[int, T]) -> dict[ImageId, T]:
        """Values of images by their ids in the data set."""
        return {self.ids[number]: value for number, value in by_number.items()}


def references(manifest: Manifest, split: str) -> References:
    """All captions of a split; empty for images whose captions are withheld.

    Raises:
        ShardError: naming an image id that occurs twice.
    """
    found, keys = References({}, {}, {}), dict[int, str]()
    samples = sum(shard.samples for shard in manifest.split(split))
    title = f"reading captions of {split}"
    read = tracked(manifest.read(split, "json"), samples, title=title, unit="image", inner=True)
    for key, data in read:
        annotation = decode_sample_json(key, data)
        image = image_number(annotation["image_id"])
        if image in keys:
            places = " and ".join(_places(manifest, split, {key, keys[image]}))
            raise ShardError(
                f"{manifest.location}: image id {annotation['image_id']} occurs twice in {split}: "
                f"{places}; build one of two sets again with --id-prefix"
            )
        keys[image] = key
        found.raw[image] = annotation["captions"]
        found.tokens[image] = annotation["tokens"]
        found.ids[image] = annotation["image_id"]
    return found


def _places(manifest: Manifest, split: str, keys: set[str]) -> Iterator[str]:
    """The shards and keys of the samples that have one of these keys."""
    for shard in manifest.split(split):
        for entry in manifest.index(shard):
            if entry.key in keys:
                yield f"sample {entry.key} in {shard.name}"


def captioned(manifest: Manifest, split: str) -> References:
    """All captions of a split for training or validation, where every image must have some.

    Raises:
        ShardError: naming an image that has none.
    """
    found = references(manifest, split)
    for image, captions in found.raw.items():
        if not captions:
            raise ShardError(
                f"{manifest.location}: image {found.ids[image]} of {split} has no captions, "
                "expected one or more; rebuild the shards without it"
            )
    return found


def check_needs(
    manifest: Manifest, split: str, needs: frozenset[str], model: str, *, lacking: bool = False
) -> None:
    """Refuse shards that lack a member, or images a feature set, that a model reads.

    ``lacking`` says whether it can do without the feature sets after its first.

    Raises:
        ShardError: naming the member, or the set.
    """
    for number, found in enumerate(manifest.chosen_sets):
        without = sum(found.lacking(shard) for shard in manifest.split(split))
        if without and not (lacking and number):
            raise ShardError(
                f"{manifest.location}: {without} images of {split} lack feature set "
                f"{found.name!r}, which model {model!r} can't do without; add the set anew with "
                "features of all images, or choose another model"
            )
    for need in sorted(needs - members(manifest, split)):
        raise ShardError(
            f"{manifest.location}: its samples have no {need}, which model {model!r} reads; "
            "rebuild the shards with them, or choose another model"
        )
    if "classes" in needs and not manifest.class_names:
        raise ShardError(
            f"{manifest.location}: its classes have no names, so their number, which model "
            f"{model!r} needs, is unknown; rebuild the shards with --class-names"
        )


def members(manifest: Manifest, split: str) -> set[str]:
    """Members of a split's samples, by the first of each set: "regions", "boxes", ..."""
    firsts = {Path(shard.name).parent: shard for shard in reversed(manifest.split(split))}
    entries = [manifest.index(shard)[0] for shard in firsts.values()]
    in_files = {"concepts"} if manifest.concepts else set()
    found = [in_files | {suffix.partition(".")[0] for suffix in entry.members} for entry in entries]
    # Classes and relations are of the folder's own regions.
    first, *_ = manifest.chosen_sets
    unread = set() if first.tars is None else {suffix.partition(".")[0] for suffix in OF_REGIONS}
    return set.intersection(*found) - unread


def training_batches(
    manifest: Manifest,
    data: DataConfig,
    batch: BatchConfig,
    vocab: Vocabulary,
    ranks: Ranks,
    seed: int,
    *,
    grounding: bool = False,
    reference_ids: WordIds | None = None,
) -> Batches:
    """The training split, shuffled.

    With ``grounding``, it includes the boxes of captions' phrases; with ``reference_ids``, all
    captions as references of rewards.

    Raises:
        ConfigError: if the number of ranks does not divide the batch or the lanes, the reader is
            not installed, or the data to keep resident does not fit.
        ShardError: if there are fewer images than ranks.
    """
    sizes = tuple(shard.samples for shard in manifest.split("train"))
    if sum(sizes) < ranks.world:
        raise ShardError(
            f"{manifest.location}: {sum(sizes)} training images for {ranks.world} ranks; "
            "train on no more ranks than images"
        )
    sets = mixture_sets(manifest, data.shards)
    order = Order(sizes, seed, data.lanes, data.window, sets=sets)
    batches = _batches(
        manifest, "train", data, batch, vocab, ranks, order, grounding, reference_ids
    )
    if data.resident == "ram":
        lock_pages(manifest, "train")
    resident = ResidentRegions.of(manifest, "train") if data.resident == "gpu" else None
    return replace(batches, resident=resident)


def evaluation_batches(
    manifest: Manifest, split: str, data: DataConfig, micro: int, vocab: Vocabulary, ranks: Ranks
) -> Batches:
    """A split in the shards' own order, ``micro`` images at a time on every rank."""
    sizes = tuple(shard.samples for shard in manifest.split(split))
    order = Order(sizes, 0, data.lanes, data.window, shuffle=False)
    batch = BatchConfig(images=micro * ranks.world, micro=micro)
    return _batches(manifest, split, data, batch, vocab, ranks, order)


def _batches(
    manifest: Manifest,
    split: str,
    data: DataConfig,
    batch: BatchConfig,
    vocab: Vocabulary,
    ranks: Ranks,
    order: Order,
    grounding: bool = False,
    reference_ids: WordIds | None = None,
) -> Batches:
    scales = tuple(
        np.array(found.spec.scale, np.float32) if found.spec.scale else None
        for found in manifest.chosen_sets
    )
    names = manifest.class_names
    encoder = SampleEncoder(
        vocab, data.max_words, data.max_concepts, len(names), names, reference_ids
    )
    store = SampleStore(manifest, split, encoder, grounding=grounding)
    reader = make_reader(data, store, RankPlan(order, ranks, batch.images))
    return Batches(reader, Collate(encoder, scales), batch)
