"""What the server measures about itself, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The numbers of one server; memory, CPU time and open files of the process are added."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "capdist_requests", "Requests for captions, by status.", ["status"], registry=registry
        )
        self.captions = Counter(
            "capdist_captions", "Captioned photographs, by run.", ["run"], registry=registry
        )
        self.waiting = Gauge(
            "capdist_requests_waiting", "Requests that are not answered yet.", registry=registry
        )
        self.request_seconds = Histogram(
            "capdist_request_seconds",
            "From the headers of a request to its answer, if it is a caption.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_images = Histogram(
            "capdist_batch_images",
            "Photographs that were captioned together.",
            buckets=_IMAGES,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "capdist_batch_seconds",
            "Extracting features of a batch and decoding it.",
            buckets=_SECONDS,
            registry=registry,
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)
