"""A folder of shards as a run sees it: its references, its vocabulary, its batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from capdist.config.data import DataConfig
from capdist.config.stage import BatchConfig
from capdist.data.batches import Batches
from capdist.data.collate import Collate
from capdist.data.mixture import parts
from capdist.data.order import Order
from capdist.data.rank_plan import RankPlan, Ranks
from capdist.data.reader import make_reader
from capdist.data.residency import RegionStore, lock_pages
from capdist.data.sample_store import SampleStore
from capdist.vocab import Vocabulary
from shards.manifest import Manifest
from shards.schema import ShardError, decode_sample_json


@dataclass(frozen=True)
class References:
    """Captions of a split by image id, raw and as tokens."""

    raw: dict[int, tuple[str, ...]]
    tokens: dict[int, tuple[tuple[str, ...], ...]]


def references(manifest: Manifest, split: str) -> References:
    """All captions of a split; a split whose captions are withheld gives empty ones.

    Raises:
        ShardError: naming an image id that occurs twice.
    """
    found = References({}, {})
    for key, data in manifest.read(split, "json"):
        annotation = decode_sample_json(key, data)
        image = annotation["image_id"]
        if image in found.raw:
            raise ShardError(
                f"{manifest.location}: image id {image} occurs twice in {split}, the second time "
                f"in sample {key}; build one of the two sets again with other ids"
            )
        found.raw[image] = annotation["captions"]
        found.tokens[image] = annotation["tokens"]
    return found


def captioned(manifest: Manifest, split: str) -> References:
    """All captions of a split that is trained or validated on.

    Raises:
        ShardError: naming an image that has none.
    """
    found = references(manifest, split)
    for image, captions in found.raw.items():
        if not captions:
            raise ShardError(
                f"{manifest.location}: image {image} of {split} has no captions, expected one or "
                "more; build the shards again without it"
            )
    return found


def count_words(manifest: Manifest, min_count: int) -> Vocabulary:
    """The vocabulary of the training captions."""
    captions = captioned(manifest, "train").tokens.values()
    return Vocabulary.count((caption for image in captions for caption in image), min_count)


def check_needs(manifest: Manifest, split: str, needs: frozenset[str], model: str) -> None:
    """Refuse shards that lack what a model reads, before anything starts.

    Raises:
        ShardError: naming the member.
    """
    for need in sorted(needs - members(manifest, split)):
        raise ShardError(
            f"{manifest.location}: its samples have no {need}, which model {model!r} reads; "
            "build the shards with them or choose another model"
        )
    if "classes" in needs and not manifest.class_names:
        raise ShardError(
            f"{manifest.location}: its classes have no names, so model {model!r} can't know how "
            "many there are; build the shards again with --class-names"
        )


def members(manifest: Manifest, split: str) -> set[str]:
    """What the samples of a split have, by the first of each set: "regions", "boxes", ..."""
    firsts = {Path(shard.name).parent: shard for shard in reversed(manifest.split(split))}
    entries = [manifest.index(shard)[0] for shard in firsts.values()]
    beside = {"concepts"} if manifest.concepts else set()
    found = [beside | {suffix.partition(".")[0] for suffix in entry.members} for entry in entries]
    return set.intersection(*found)


def training_batches(
    manifest: Manifest,
    data: DataConfig,
    batch: BatchConfig,
    vocab: Vocabulary,
    ranks: Ranks,
    seed: int,
    *,
    grounding: bool = False,
) -> Batches:
    """The training split, shuffled; with ``grounding`` it brings where captions' objects lie.

    Raises:
        ConfigError: if the ranks do not divide the batch or the lanes, the reader is not installed,
            or there is no room for what is to be cached.
        ShardError: if there are fewer images than ranks.
    """
    sizes = tuple(shard.samples for shard in manifest.split("train"))
    if sum(sizes) < ranks.world:
        raise ShardError(
            f"{manifest.location}: {sum(sizes)} training images for {ranks.world} ranks; "
            "train on no more ranks than images"
        )
    sets = parts(manifest, data.shards)
    order = Order(sizes, seed, data.lanes, data.window, sets=sets)
    batches = _batches(manifest, "train", data, batch, vocab, ranks, order, grounding)
    if data.cache == "ram":
        lock_pages(manifest, "train")
    store = RegionStore.of(manifest, "train") if data.cache == "gpu" else None
    return replace(batches, store=store)


def evaluation_batches(
    manifest: Manifest, split: str, data: DataConfig, micro: int, vocab: Vocabulary, ranks: Ranks
) -> Batches:
    """A split as it stands, ``micro`` images at a time on every rank."""
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
) -> Batches:
    scale = np.array(manifest.features.scale, np.float32) if manifest.features.scale else None
    classes = len(manifest.class_names)
    collate = Collate(vocab, data.max_words, data.max_concepts, classes, scale)
    shelf = SampleStore(manifest, split, collate.pack, grounding=grounding)
    reader = make_reader(data, shelf, RankPlan(order, ranks, batch.images))
    return Batches(reader, collate, batch)
