"""The beam step's kernel and whole searches on a GPU, compared with the GPU's limits.

The limits are measured, not taken from a data sheet: bytes/s of a copy and operations/s of a matrix
product. The roofline of a search is the larger of the times for its counted operations and for the
bytes that it must read: every step reads all weights except the encoder's and the word table's, and
the projected keys and values of the image, and writes and reads its logits.

Legend: B images, K beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.decode import FEATURES as REGION_WIDTH
from benchmarks.decode import STEPS, VOCABULARY, bare, machine, make_batch
from benchmarks.timing import seconds
from capdist.config.base import ConfigError
from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import Search
from capdist.decoding.constraints import Constraints
from capdist.decoding.cuda_graph import make_search
from capdist.kernels.beam_step import Rules, beam_step, first_beams, reference
from capdist.models.base import Dims, build
from capdist.reporting.table import format_markdown, format_table
from capdist.vocab import BOS, EOS, PAD, UNK
from shards.progress import tracked

Rows = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Sizes:
    """Problem sizes, as (images, beam) of the kernel and of searches; `QUICK` is for tests on CPU.

    ``rounds``: timed calls of a kernel and of a search.
    """

    kernel: tuple[tuple[int, int], ...] = ((50, 3), (50, 5), (1024, 3), (1024, 5), (4096, 3))
    search: tuple[tuple[int, int], ...] = ((50, 3), (50, 5), (1024, 3), (4096, 3))
    vocabulary: int = VOCABULARY
    copied: int = 2**30
    product: int = 8192
    rounds: tuple[int, int] = (30, 10)


QUICK = Sizes(((3, 2),), ((2, 2),), 300, 2**16, 64, (1, 1))


def replayed(run: Callable[[], Any], device: torch.device, rounds: int, calls: int = 20) -> float:
    """The median time of a call without its launch: on a GPU, as one of ``calls`` in a graph."""
    if device.type == "cpu":
        return seconds(run, device, rounds)
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    return seconds(graph.replay, device, rounds) / calls


@dataclass(frozen=True)
class Limits:
    """Bytes/s of a copy, reads and writes together, and operations/s of a bf16 product."""

    bytes: float
    operations: float

    @classmethod
    def measure(cls, sizes: Sizes, device: torch.device) -> Limits:
        source = torch.empty(sizes.copied, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        square = torch.randn(sizes.product, sizes.product, device=device, dtype=torch.bfloat16)
        return cls(
            2 * sizes.copied / seconds(lambda: target.copy_(source), device, sizes.rounds[0]),
            2 * sizes.product**3 / seconds(lambda: square @ square, device, sizes.rounds[0]),
        )


@torch.inference_mode()
def kernel_rows(sizes: Sizes, limits: Limits, device: torch.device) -> Rows:
    """The step on bf16 logits: the kernel, the reference, and the time to read the logits once."""
    rows, rounds = {}, sizes.rounds[0]
    settings = tracked(sizes.kernel, len(sizes.kernel), title="timing steps", unit="setting")
    for images, beam in settings:
        shape = (images, beam, sizes.vocabulary)
        logits = torch.randn(shape, device=device).bfloat16()
        rules = Rules(torch.ones(STEPS + 1, device=device), _forbidden(device))
        beams, _, _ = beam_step(logits, first_beams(images, beam, device), rules)
        kernel = replayed(lambda: beam_step(logits, beams, rules), device, rounds)  # noqa: B023
        plain = seconds(lambda: reference.beam_step(logits, beams, rules), device, rounds)  # noqa: B023
        read = logits.nbytes / limits.bytes
        rows[f"{images} images, beam {beam}"] = {
            "kernel µs": 1e6 * kernel,
            "reference µs": 1e6 * plain,
            "reference / kernel": plain / kernel,
            "reading µs": 1e6 * read,
            "of reading %": 100 * read / kernel,
        }
    return rows


@torch.inference_mode()
def search_rows(name: str, sizes: Sizes, limits: Limits, device: torch.device) -> Rows:
    """Images/s of searches in bf16: replayed, launched, the bare model, and the roofline."""
    torch.manual_seed(1)
    dims = Dims(REGION_WIDTH, sizes.vocabulary)
    model = build({"name": name}, dims, "--model").eval().to(device, torch.bfloat16)
    rows, rounds = {}, sizes.rounds[1]
    settings = tracked(sizes.search, len(sizes.search), title="timing searches", unit="setting")
    for images, beam in settings:
        batch = make_batch(images).to(device)
        batch.concepts.clamp_(max=sizes.vocabulary - 1)
        decoding = DecodingConfig(beam=beam, max_words=STEPS - 1, min_words=STEPS - 1)
        search = Search(model, batch, decoding, Constraints())
        with FlopCounterMode(display=False) as counter:
            search.run(batch)
        memory = sum(
            t.nbytes for part in model.encode(batch).values() for t in (part.keys, part.values)
        )
        weights = sum(p.nbytes for p in model.parameters())
        logits = 2 * 2 * images * beam * sizes.vocabulary
        read = STEPS * (weights + memory + logits)
        roofline = max(counter.get_total_flops() / limits.operations, read / limits.bytes)
        replayed_search = make_search(model, decoding, Constraints(), device)
        rows[f"{images} images, beam {beam}"] = {
            "images/s": images / seconds(lambda: replayed_search(batch), device, rounds),  # noqa: B023
            "launched": images / seconds(lambda: search.run(batch), device, rounds),  # noqa: B023
            "bare model": images / seconds(lambda: bare(model, batch, beam), device, rounds),  # noqa: B023
            "roofline": images / roofline,
        }
    return rows


@dataclass(frozen=True)
class Figures:
    model: str
    vocabulary: int
    limits: Limits
    kernel: Rows
    search: Rows

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "limits": vars(self.limits), "machine": machine()}

    def table(self) -> str:
        tables = (format_table(rows, list(next(iter(rows.values())))) for rows in self._tables)
        return "\n\n".join(tables)

    def page(self, command: str) -> str:
        kernel, search = (
            format_markdown(rows, list(next(iter(rows.values())))) for rows in self._tables
        )
        limits = self.limits
        return (
            f"# Decoding on a GPU: {self.model}\n\n{machine()}, torch {torch.__version__}, bf16, "
            f"V = {self.vocabulary}. Measured limits: {limits.bytes / 1e12:.2f} TB/s copied, "
            f"{limits.operations / 1e12:.0f} Tflop/s in a matrix product.\n\n"
            "## The beam step\n\nThe kernel as in a replayed graph; the reference in plain torch, "
            "launched; *reading* is the time to read the logits once at the speed of a copy.\n\n"
            f"{kernel}\n\n## {STEPS} steps, in images/s\n\nReplayed as a graph, launched step by "
            "step, the bare model launched without bookkeeping, and the roofline of counted "
            f"operations and bytes.\n\n{search}\n\n```\n{command}\n```\n"
        )

    @property
    def _tables(self) -> tuple[Rows, Rows]:
        return self.kernel, self.search


def measure(model: str) -> Figures:
    """Measure the kernel and searches on the current GPU.

    Raises:
        ConfigError: if there is no GPU, or no such model.
    """
    if not torch.cuda.is_available():
        raise ConfigError("bench.py gpu: no GPU here; bench.py decode measures on CPUs")
    return measure_on(model, Sizes(), torch.device("cuda"))


def measure_on(model: str, sizes: Sizes, device: torch.device) -> Figures:
    limits = Limits.measure(sizes, device)
    kernel = kernel_rows(sizes, limits, device)
    search = search_rows(model, sizes, limits, device)
    return Figures(model, sizes.vocabulary, limits, kernel, search)


def _forbidden(device: torch.device) -> torch.Tensor:
    return torch.tensor([PAD, BOS, UNK, EOS], device=device)
