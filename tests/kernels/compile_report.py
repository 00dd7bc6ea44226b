"""A page on the beam step's kernels, compiled ahead of time for GPUs this machine need not have.

``python -m tests.kernels.compile_report > docs/results/beam_step_compile.md`` measures it anew.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from capdist.kernels.beam_step import triton_kernel

VOCABULARY = 9487
BEAMS = (1, 3, 5, 16)
TARGETS = (80, 90)
TYPES = {
    **dict.fromkeys(("scores", "weights", "next_scores", "maxima", "sums"), "*fp32"),
    "penalty": "fp32",
    **dict.fromkeys(("lengths", "tokens", "next_lengths", "next_tokens", "parents"), "*i64"),
    **dict.fromkeys(("forbidden", "banned", "penalised", "best"), "*i64"),
    "nonfinite": "*i1",
}

HEAD = f"""\
# The beam step's kernels, compiled

For V = {VOCABULARY}, by Triton {triton.__version__} and the ptxas in it, ahead of time: no
GPU was there and nothing ran. *Read* is stage 1, by type of logits, *merge* stage 2; the
[README](../../capdist/kernels/beam_step/README.md) explains both. Registers are a thread's, spills
and sizes are bytes.

| stage | K | target | warps | registers | spill stores | spill loads | shared memory | cubin |
| --- | --: | --- | --: | --: | --: | --: | --: | --: |
"""


@dataclass(frozen=True)
class Compiled:
    """ptxas's report on a kernel, its shared memory and its size, in bytes."""

    warps: int
    registers: int
    spill_stores: int
    spill_loads: int
    shared: int
    cubin: int


def compile_read(dtype: str, beam: int, target: int) -> Compiled:
    """Stage 1 for logits of a type, "fp32" or "bf16"."""
    sizes = triton_kernel.launch_sizes(beam, VOCABULARY)
    fixed = {"token_stride": 1, "K": beam, "BLOCK": sizes.block}
    types = {**TYPES, "logits": f"*{dtype}"}
    return _compile(triton_kernel._read, types, fixed, sizes.read_warps, target)


def compile_merge(beam: int, target: int) -> Compiled:
    """Stage 2, which does not read the logits."""
    sizes = triton_kernel.launch_sizes(beam, VOCABULARY)
    fixed = {"K": beam, "BEAMS": sizes.beams, "COLUMNS": sizes.columns}
    return _compile(triton_kernel._merge, TYPES, fixed, sizes.merge_warps, target)


def _compile(
    kernel: Any, types: dict[str, str], fixed: dict[str, int], warps: int, target: int
) -> Compiled:
    """Compile as a launch with 16-byte aligned tensors would; arguments without a type are i32."""
    names = kernel.arg_names
    signature = {n: "constexpr" if n in fixed else types.get(n, "i32") for n in names}
    aligned = {
        (names.index(n),): [["tt.divisibility", 16]] for n in names if types.get(n, "")[:1] == "*"
    }
    with _ptxas_log() as log:
        compiled = triton.compile(
            ASTSource(kernel, signature, fixed, aligned),
            target=GPUTarget("cuda", target, 32),
            options={"num_warps": warps, "enable_fp_fusion": False},
        )
    counts = [
        int(re.search(pattern, log.getvalue())[1])
        for pattern in (r"Used (\d+) reg", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
    ]
    return Compiled(warps, *counts, compiled.metadata.shared, len(compiled.asm["cubin"]))


@contextlib.contextmanager
def _ptxas_log() -> Iterator[io.StringIO]:
    """What ptxas prints, with Triton's cache disabled."""
    log = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        knobs.cache.scope(),
        knobs.nvidia.scope(),
        contextlib.redirect_stdout(log),
    ):
        knobs.cache.dir = folder
        knobs.nvidia.dump_ptxas_log = True
        yield log


def report() -> str:
    """The page."""
    stages: dict[str, Callable[[int, int], Compiled]] = {
        "read fp32": partial(compile_read, "fp32"),
        "read bf16": partial(compile_read, "bf16"),
        "merge": compile_merge,
    }
    rows = [
        [stage, str(beam), f"sm_{target}", *map(str, astuple(build(beam, target)))]
        for stage, build in stages.items()
        for beam in BEAMS
        for target in TARGETS
    ]
    return HEAD + "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(report())
