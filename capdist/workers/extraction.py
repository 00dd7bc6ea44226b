"""Chunks of pictures whose features are extracted on Ray, as many at a time as it has room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from capdist.config.run_config import RayConfig
from capdist.workers.base import PoolError
from capdist.workers.ray_tasks import connect
from shards.extract import ExtractChunk

#: How often a chunk is extracted again after its worker was lost.
RETRIES = 3


@dataclass(frozen=True)
class RayChunks:
    """Runs chunks as tasks of Ray: a `shards.extract.RunChunks`.

    All nodes must have the same folders.

    Args:
        cluster: which Ray.
        cpus: that Ray reserves for a chunk, and its number of threads.
        gpus: that Ray reserves for a chunk.
    """

    cluster: RayConfig
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))

    def __call__(
        self, extract_chunk: ExtractChunk, chunks: Sequence[dict[str, Path]]
    ) -> Iterator[list[str]]:
        """The bad pictures of each chunk, in their order.

        Raises:
            PoolError: if Ray is not available, no node is large enough, or a chunk crashes every
                worker.
            ShardError: what a chunk raised.
        """
        if not chunks:
            return
        where = f"--ray {self.cluster.address}"
        ray = connect(self.cpus, self.gpus, self.cluster, where, "--cpus or --gpus")
        try:
            task = ray.remote(run_chunk).options(
                num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES
            )
            shared = ray.put(extract_chunk)
            running = [task.remote(shared, _absolute(chunk)) for chunk in chunks]
            for reference in running:
                yield ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise PoolError(
                f"{where}: {type(error).__name__}: workers were lost {1 + RETRIES} times on the "
                "same pictures, or all of Ray was; check whether nodes run out of memory, lower "
                "--batch, and run the same command again: it continues"
            ) from error
        finally:
            ray.shutdown()


def run_chunk(extract_chunk: ExtractChunk, pictures: dict[str, Path]) -> list[str]:
    """What a task does: extract, and return a line for each bad picture."""
    return extract_chunk(pictures)


def _absolute(chunk: dict[str, Path]) -> dict[str, Path]:
    """Workers have other working directories."""
    return {name: path.absolute() for name, path in chunk.items()}
