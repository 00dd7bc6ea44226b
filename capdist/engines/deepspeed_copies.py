"""Copies of gradients that DeepSpeed makes, and that training on CPUs does not need.

They are a few passes over memory, which a GPU makes in no time and a CPU does not. Sums over
several ranks are the same with and without them.
"""

from __future__ import annotations

from typing import Any

from capdist.config.run_config import enabled

#: Sections of DeepSpeed's JSON that choose another precision than fp32.
HALF = ("fp16", "bf16", "torch_autocast")


def without_bucket(section: dict[str, Any]) -> dict[str, Any]:
    """DeepSpeed's JSON, where gradients are summed from where they are.

    Its default, ``contiguous_gradients``, copies them into a bucket first and then out of it. It
    applies to ZeRO 1 in fp32; what the section says itself remains.
    """
    zero = section.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") != 1:
        return section
    if any(enabled(section, name) for name in HALF):
        return section
    return {**section, "zero_optimization": {"contiguous_gradients": False, **zero}}


def skip_sum(optimizer: Any) -> None:
    """Leave out the sum over the ranks, for a rank alone: it flattens gradients and copies back.

    Only gradients without a bucket are summed by this method.
    """
    optimizer.buffered_reduce_fallback = lambda *_, **__: None


def norms_in_fp32() -> None:
    """Compute gradients' norms in fp32, as torch does; DeepSpeed copies each gradient to fp64."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp64_supported = lambda: False
