"""Collects photographs of concurrent requests into batches for the thread that owns the models."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from capdist.config.decoding import DecodingConfig
from capdist.inference.photographs import PhotographCaption, PhotographCaptioner
from capdist.serving.metrics import Metrics
from shards.picture_batches import PreparedPicture

#: The most hypotheses of a batch: with forced words, an image has a beam for each of their subsets.
MAX_HYPOTHESES = 512


@dataclass(frozen=True, eq=False)
class Job:
    """A photograph that waits for its caption; those of equal ``key`` may be decoded together."""

    run: str
    decoding: DecodingConfig
    picture: PreparedPicture
    found: Future[PhotographCaption] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> tuple[str, DecodingConfig]:
        return self.run, self.decoding


class Batcher:
    """A queue, and a thread that captions it in batches.

    A batch has the oldest photograph and those of the same run and settings. It starts when it is
    full, or when the oldest photograph has waited long enough.

    Args:
        captioners: by name.
        images: the largest batch.
        wait_s: how long a photograph waits for others.
        metrics: where sizes and times of batches are counted.
    """

    def __init__(
        self,
        captioners: Mapping[str, PhotographCaptioner],
        images: int,
        wait_s: float,
        metrics: Metrics,
    ) -> None:
        self.captioners, self.images, self.wait_s = captioners, images, wait_s
        self.metrics = metrics
        self._changed = threading.Condition()
        self._queue: list[Job] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="captioner", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[PhotographCaption]:
        """Queue a photograph; must not be called after `close`."""
        with self._changed:
            self._queue.append(job)
            self._changed.notify()
        return job.found

    def close(self) -> None:
        """Caption what is in the queue and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            self._caption([job for job in batch if job.found.set_running_or_notify_cancel()])

    def _next(self) -> list[Job]:
        """The next batch; empty after the last one."""
        with self._changed:
            while not self._closing or self._queue:
                if not self._queue:
                    self._changed.wait()
                    continue
                oldest = self._queue[0]
                size = min(self.images, room(oldest.decoding))
                batch = [job for job in self._queue if job.key == oldest.key][:size]
                left = oldest.arrived + self.wait_s - time.monotonic()
                if len(batch) == size or left <= 0 or self._closing:
                    self._queue = [job for job in self._queue if job not in batch]
                    return batch
                self._changed.wait(left)
        return []

    def _caption(self, batch: list[Job]) -> None:
        if not batch:
            return
        run, decoding = batch[0].key
        self.metrics.batch_images.observe(len(batch))
        try:
            with self.metrics.batch_seconds.time():
                found = self.captioners[run].caption_batch([job.picture for job in batch], decoding)
        except Exception as error:  # the thread must outlive whatever a batch does
            traceback.print_exc()
            for job in batch:
                job.found.set_exception(error)
            return
        self.metrics.captions.labels(run).inc(len(batch))
        for job, one in zip(batch, found, strict=True):
            job.found.set_result(one)


def room(decoding: DecodingConfig) -> int:
    """The most images of a batch."""
    return max(1, MAX_HYPOTHESES // (decoding.beam * 2 ** len(decoding.forced)))
