"""A split decoded in this process or by workers on Ray, with identical captions.

A worker decodes whole batches of the single-process run, in the same order: padding, and with it
the last bit of a score, depends on the other images of a batch.
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
from capdist.workers.driver_process import ActorRequest, actor_error
from capdist.workers.node_ray import open_driver
from capdist.workers.ray_decoders import serve
from shards.manifest import Manifest

#: The captions of each image of a batch, best first.
DecodedBatch = list[tuple[int, list[Caption]]]


@dataclass(frozen=True)
class Workers:
    """The number of workers, the CPUs of each, and their Ray; 0: this process, without Ray."""

    count: int
    cpus: float
    cluster: RayConfig


@dataclass(frozen=True)
class SplitDecoding:
    """What to decode, and how; with ``boxes``, captions say which region each word attended to."""

    model: CaptionModel[Any]
    manifest: Manifest
    split: str
    data: DataConfig
    vocab: Vocabulary
    decoding: DecodingConfig
    boxes: bool

    @property
    def batches(self) -> Batches:
        """The split in stored order."""
        size = self.decoding.batch
        return evaluation_batches(self.manifest, self.split, self.data, size, self.vocab, Ranks())

    def decode(self, start: int = 0) -> Iterator[DecodedBatch]:
        """The captions of one batch after the other, beginning with batch ``start``."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, size = self.model.to(device), self.decoding.batch
        read: Iterator[Batch] = chain.from_iterable(self.batches.epoch(0, start * size))
        images = caption_images(model, read, self.vocab, self.decoding, device, boxes=self.boxes)
        while decoded := list(islice(images, size)):
            yield decoded

    @property
    def without_readers(self) -> SplitDecoding:
        """The same without reader processes: Ray's threads do not survive a fork."""
        return replace(self, data=self.data.model_copy(update={"workers": 0}))


def decode_split(
    task: SplitDecoding, workers: Workers, log: Callable[[str], None]
) -> Iterator[tuple[int, DecodedBatch]]:
    """The number and the captions of every batch; in order of number only without workers.

    Args:
        task: what to decode. Ray's workers receive it pickled, and read only the shards themselves.
        workers: who decodes.
        log: receives a line for every worker that crashes.

    Raises:
        PoolError: if Ray is not available, or a batch crashes every worker that decodes it.
        ShardError: if a shard is damaged or missing.
        DecodingError: if a logit is NaN.
    """
    if not workers.count:
        yield from enumerate(task.decode())
        return
    option = f"--workers {workers.count}"
    instead = "leave --workers out to decode in this process"
    request = ActorRequest(workers.count, workers.cpus, True, option, instead, serve)
    driver = open_driver(request, workers.cluster, task.without_readers, log)
    try:
        driver.send(task.batches.plan.steps)
        while (answer := driver.answer(None))[0] != "done":
            kind, value = answer
            if kind == "raised":
                raise actor_error(value)
            yield value
    finally:
        driver.stop()
