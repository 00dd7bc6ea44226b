"""A split decoded in this process, or by workers on Ray: the same captions.

A worker decodes whole batches of the single process's run, in the same order: padding, and with it
the last bit of a score, depends on what an image shares its batch with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import torch

from capdist.batch import Batch
from capdist.config.data import DataConfig
from capdist.config.decoding import DecodingConfig
from capdist.config.run_config import RayConfig
from capdist.data.batches import Batches
from capdist.data.dataset import evaluation_batches
from capdist.data.rank_plan import Ranks
from capdist.decoding.generate import Caption, caption_images
from capdist.models.base import CaptionModel
from capdist.vocab import Vocabulary
from capdist.workers.ray_child import ActorRequest, RayChild, raised
from capdist.workers.ray_decoders import serve
from shards.manifest import Manifest

#: The best caption of each image of a batch.
DecodedBatch = list[tuple[int, Caption]]


@dataclass(frozen=True)
class Workers:
    """How many decode, with how many CPUs each, and where; 0: this process, without Ray."""

    count: int
    cpus: float
    cluster: RayConfig


@dataclass(frozen=True)
class SplitDecoding:
    """What is decoded, and how; ``boxes`` asks where the model looked."""

    model: CaptionModel[Any]
    manifest: Manifest
    split: str
    data: DataConfig
    vocab: Vocabulary
    decoding: DecodingConfig
    boxes: bool

    @property
    def batches(self) -> Batches:
        """Of the split, as it stands."""
        size = self.decoding.batch
        return evaluation_batches(self.manifest, self.split, self.data, size, self.vocab, Ranks())

    def decode(self, start: int = 0) -> Iterator[DecodedBatch]:
        """The captions of one batch after the other, from batch ``start`` on."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, size = self.model.to(device), self.decoding.batch
        read: Iterator[Batch] = chain.from_iterable(self.batches.epoch(0, start * size))
        images = caption_images(model, read, self.vocab, self.decoding, device, boxes=self.boxes)
        while found := [(image, captions[0]) for image, captions in islice(images, size)]:
            yield found

    @property
    def bare(self) -> SplitDecoding:
        """The same without reader processes: Ray's threads do not survive a fork."""
        return replace(self, data=self.data.model_copy(update={"workers": 0}))


def decode_split(
    task: SplitDecoding, workers: Workers, log: Callable[[str], None]
) -> Iterator[tuple[int, DecodedBatch]]:
    """Number and captions of every batch, in order of their numbers where one process decodes.

    Args:
        task: what is decoded. On Ray it goes to the workers as it is; only shards are read there.
        workers: who decodes.
        log: is told of every worker that is lost.

    Raises:
        PoolError: if there is no Ray, or a batch kills whoever decodes it.
        ShardError: if a shard is damaged, or not there.
        DecodingError: if a logit is not a number.
    """
    if not workers.count:
        yield from enumerate(task.decode())
        return
    key, instead = f"--workers {workers.count}", "leave --workers out to decode in this process"
    wish = ActorRequest(workers.count, workers.cpus, True, key, instead, serve)
    child = RayChild(wish, workers.cluster, task.bare, log)
    try:
        child.send(task.batches.plan.steps)
        while (answer := child.answer(None))[0] != "done":
            kind, value = answer
            if kind == "raised":
                raise raised(value)
            yield value
    finally:
        child.end()
