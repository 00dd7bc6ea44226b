"""The beam step's kernel and whole searches on a GPU, beside what the GPU could do at best.

Ceilings are measured, not read off a data sheet: a copy's bytes/s and a matrix product's
operations/s. A search's floor is the larger of its counted operations and of the bytes that it
must read, each at its ceiling: every step reads all weights but the encoder's and the word table's,
and the image's projected keys and values, and writes and reads its logits.

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

Rows = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Sizes:
    """What is measured; ``quick`` ones let a test walk through it on a CPU."""

    kernel: tuple[tuple[int, int], ...] = ((50, 3), (50, 5), (1024, 3), (1024, 5), (4096, 3))
    search: tuple[tuple[int, int], ...] = ((50, 3), (50, 5), (1024, 3), (4096, 3))
    vocabulary: int = VOCABULARY
    copied: int = 2**30
    product: int = 8192


QUICK = Sizes(((3, 2),), ((2, 2),), 300, 2**16, 64)


def replayed(run: Callable[[], Any], device: torch.device, calls: int = 20) -> float:
    """The median time of a call without its launch: on a GPU, as one of many in a graph."""
    if device.type == "cpu":
        return seconds(run, device)
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    return seconds(graph.replay, device) / calls


@dataclass(frozen=True)
class Ceilings:
    """Bytes/s of a copy, reads and writes together, and operations/s of a bf16 product."""

    bytes: float
    operations: float

    @classmethod
    def measure(cls, sizes: Sizes, device: torch.device) -> Ceilings:
        """Both."""
        source = torch.empty(sizes.copied, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        square = torch.randn(sizes.product, sizes.product, device=device, dtype=torch.bfloat16)
        return cls(
            2 * sizes.copied / seconds(lambda: target.copy_(source), device),
            2 * sizes.product**3 / seconds(lambda: square @ square, device),
        )


@torch.inference_mode()
def kernel_rows(sizes: Sizes, ceilings: Ceilings, device: torch.device) -> Rows:
    """The step from bf16 logits on: the kernel, its twin, and the time to read the logits once."""
    rows = {}
    for images, beam in sizes.kernel:
        shape = (images, beam, sizes.vocabulary)
        logits = torch.randn(shape, device=device).bfloat16()
        rules = Rules(torch.ones(STEPS + 1, device=device), _never(device))
        beams, _, _ = beam_step(logits, first_beams(images, beam, device), rules)
        ours = replayed(lambda: beam_step(logits, beams, rules), device)  # noqa: B023
        twin = seconds(lambda: reference.beam_step(logits, beams, rules), device)  # noqa: B023
        floor = logits.nbytes / ceilings.bytes
        rows[f"{images} images, beam {beam}"] = {
            "kernel µs": 1e6 * ours,
            "twin µs": 1e6 * twin,
            "twin / kernel": twin / ours,
            "reading µs": 1e6 * floor,
            "of reading %": 100 * floor / ours,
        }
    return rows


@torch.inference_mode()
def search_rows(name: str, sizes: Sizes, ceilings: Ceilings, device: torch.device) -> Rows:
    """Whole searches in bf16: images/s replayed and not, the bare model's, and the floor's."""
    torch.manual_seed(1)
    dims = Dims(REGION_WIDTH, sizes.vocabulary)
    model = build({"name": name}, dims, "--model").eval().to(device, torch.bfloat16)
    rows = {}
    for images, beam in sizes.search:
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
        floor = max(counter.get_total_flops() / ceilings.operations, read / ceilings.bytes)
        replay = make_search(model, decoding, Constraints(), device)
        rows[f"{images} images, beam {beam}"] = {
            "images/s": images / seconds(lambda: replay(batch), device, 10),  # noqa: B023
            "launched": images / seconds(lambda: search.run(batch), device, 10),  # noqa: B023
            "bare model": images / seconds(lambda: bare(model, batch, beam), device, 10),  # noqa: B023
            "floor": images / floor,
        }
    return rows


@dataclass(frozen=True)
class Figures:
    """What was measured of a model's decoding."""

    model: str
    vocabulary: int
    ceilings: Ceilings
    kernel: Rows
    search: Rows

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {**vars(self), "ceilings": vars(self.ceilings), "machine": machine()}

    def table(self) -> str:
        """For a terminal."""
        tables = (format_table(rows, list(next(iter(rows.values())))) for rows in self._tables)
        return "\n\n".join(tables)

    def page(self, command: str) -> str:
        """As Markdown, with the command that measures it."""
        kernel, search = (
            format_markdown(rows, list(next(iter(rows.values())))) for rows in self._tables
        )
        ceilings = self.ceilings
        return (
            f"# Decoding on a GPU: {self.model}\n\n{machine()}, torch {torch.__version__}, bf16, "
            f"V = {self.vocabulary}. Measured ceilings: {ceilings.bytes / 1e12:.2f} TB/s copied, "
            f"{ceilings.operations / 1e12:.0f} Tflop/s in a matrix product.\n\n"
            "## The beam step\n\nThe kernel as in a replayed graph; its twin, the reference in "
            "plain torch, launched; *reading* is the time to read the logits once at the copy's "
            f"speed.\n\n{kernel}\n\n## {STEPS} steps, in images/s\n\nReplayed as a graph, launched "
            "step by step, the bare model launched without bookkeeping, and the floor of counted "
            f"operations and bytes.\n\n{search}\n\n```\n{command}\n```\n"
        )

    @property
    def _tables(self) -> tuple[Rows, Rows]:
        return self.kernel, self.search


def measure(model: str) -> Figures:
    """Everything, on the current GPU.

    Raises:
        ConfigError: if there is none, or no such model.
    """
    if not torch.cuda.is_available():
        raise ConfigError("bench.py gpu: no GPU here; bench.py decode measures on CPUs")
    return walk(model, Sizes(), torch.device("cuda"))


def walk(model: str, sizes: Sizes, device: torch.device) -> Figures:
    """The ceilings, the step and the searches, one after the other."""
    ceilings = Ceilings.measure(sizes, device)
    kernel = kernel_rows(sizes, ceilings, device)
    search = search_rows(model, sizes, ceilings, device)
    return Figures(model, sizes.vocabulary, ceilings, kernel, search)


def _never(device: torch.device) -> torch.Tensor:
    return torch.tensor([PAD, BOS, UNK, EOS], device=device)
