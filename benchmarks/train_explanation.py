"""What the programs and columns of the training benchmark's pages are."""

from __future__ import annotations

from collections.abc import Collection

from benchmarks.train_setup import BF16, NO_OVERLAP, ZERO

#: Captions of COCO's training images, Karpathy's split.
COCO = 566_747
#: What a step of ours is without what makes it fast, and with one part of that.
ALONE = ("before", "no padding", "loss in chunks", "fused Adam", "kept memory", "dropout")
_PROGRAMS: dict[tuple[str, ...], str] = {
    ("torch", "deepspeed"): "torch and deepspeed are capdist's engines.",
    BF16: "They are shown in fp32 and in bf16.",
    ("loop",): "loop: the same model in a plain PyTorch loop that pads captions to the longest of "
    "the batch, with fused Adam, torch's dropout and DistributedDataParallel.",
    ("one caption",): "one caption: the same loop with a caption a sample, which encodes an image "
    "once for each of its captions.",
    ("nn.Transformer",): "nn.Transformer: the loop with torch's own encoder layer and decoder of "
    "about as many parameters.",
    ("Trainer",): "Trainer: Hugging Face's, with BART, a caption a sample.",
    ALONE: "before: a plain loop with torch's default Adam. The rows after it have one change "
    "each: no padding (captions of a batch lie one after the other), loss in chunks (the logits of "
    "all words are never held), fused Adam, kept memory (freed memory stays with the process), "
    "dropout (by 16 random bits an element). torch has them all.",
    (NO_OVERLAP,): f"{NO_OVERLAP}: torch, with gradients summed over the ranks after the backward "
    "pass instead of during it.",
    ZERO: "ZeRO: DeepSpeed's stages; 1 divides Adam's moments among the ranks, 2 the gradients, "
    "too, and 3 also the weights.",
}
_SAMPLED = (
    "In self-critical training, the loop draws words by torch.multinomial, also after a caption "
    "has ended."
)
_PARTS = (
    "Medians in milliseconds by the host's clock on the slowest rank. other: the rest of a step{}. "
    "host reads: how often the host reads a number from the device, and host wait ms, for how long "
    "it waits for them. all-reduces: sums over the ranks."
)


def programs(names: Collection[str], stage: str) -> str:
    """The programs of these names."""
    described = [text for group, text in _PROGRAMS.items() if set(group) & set(names)]
    if stage == "scst":
        described.append(_SAMPLED)
    return " ".join(described)


def columns(stage: str, base: str) -> str:
    """The columns of speeds, which are compared with ``base``."""
    text = (
        f"COCO x 25, h: hours of 25 epochs over COCO's {COCO:,} captions at this speed. x base: "
        f"captions/s as a multiple of those of {base} on as many ranks, the median of the rounds' "
        "ratios. ceiling GF/s: what a product of large matrices reached before the round, in the "
        "program's precision."
    )
    if stage == "xe":
        text += (
            " useful %: the operations that the model needs without padding, as a share of what "
            "the ceiling allows in the step's time. arithmetic %: operations that were counted in "
            "a step, as a percentage of those."
        )
    return text


def parts(stage: str) -> str:
    """The columns of a step's parts."""
    return _PARTS.format(
        "; in capdist's engines it is sampling and rewards" if stage == "scst" else ""
    )
