"""Beam search compared with the bare model and with Hugging Face's generate.

The reference is the beam step in plain torch; on a GPU, the kernel in a captured graph is measured
too. All decode the same number of steps with the same number of rows: EOS is forbidden before the
last step. The bare model takes the same steps without bookkeeping, and its logits are not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.bart import largest_bart
from benchmarks.timing import Timing, interleave
from capdist.batch import Batch
from capdist.config.base import validate
from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import beam_search
from capdist.decoding.constraints import Constraints
from capdist.decoding.cuda_graph import make_search
from capdist.kernels import beam_step
from capdist.models.base import CaptionModel, Dims, build
from capdist.reporting.table import format_markdown, format_table
from capdist.vocab import BOS

#: COCO's usual sizes: V including special tokens, F, R, A.
VOCABULARY, FEATURES, REGIONS, CONCEPTS, CLASSES = 9_488, 2_048, 36, 36, 1_601
STEPS, ROUNDS = 20, 15
COLUMNS = ("images/s", "slowest", "fastest", "of bare %")


@dataclass(frozen=True)
class Setting:
    model: str
    batch: int
    beam: int


@dataclass(frozen=True)
class Figures:
    """Measured times; speeds are in images/s."""

    setting: Setting
    timings: dict[str, Timing]

    def speed(self, name: str) -> float:
        return self.setting.batch / self.timings[name].median

    def ratio(self, name: str, other: str) -> float:
        """How many times as fast as the other."""
        return self.timings[name].speedup(self.timings[other])

    @property
    def ours(self) -> str:
        """The implementation that `capdist` uses on this machine."""
        return "kernel" if "kernel" in self.timings else "reference"

    def to_json(self) -> dict[str, Any]:
        images = {
            name: {
                "median": self.speed(name),
                "slowest": self.setting.batch / timing.spread[1],
                "fastest": self.setting.batch / timing.spread[0],
            }
            for name, timing in self.timings.items()
        }
        figures: dict[str, Any] = {
            **vars(self.setting),
            "steps": STEPS,
            "threads": torch.get_num_threads(),
            "images_per_s": images,
            "fraction_of_bare": self.ratio(self.ours, "bare model"),
        }
        if "transformers" in self.timings:
            figures["ratio_vs_transformers"] = self.ratio(self.ours, "transformers")
        return figures

    @property
    def rows(self) -> dict[str, dict[str, float]]:
        return {
            name: {
                "images/s": speeds["median"],
                "slowest": speeds["slowest"],
                "fastest": speeds["fastest"],
                "of bare %": 100 * self.ratio(name, "bare model"),
            }
            for name, speeds in self.to_json()["images_per_s"].items()
        }

    def table(self) -> str:
        return format_table(self.rows, COLUMNS)

    def page(self, command: str) -> str:
        setting = self.setting
        return (
            f"# Decoding: {setting.model}, beam {setting.beam}, batches of {setting.batch}\n\n"
            f"{STEPS} steps, V = {VOCABULARY}, {REGIONS} regions, {CONCEPTS} concepts, random "
            f"weights, fp32, {machine()}, torch {torch.__version__}. Median, slowest and "
            f"fastest of {ROUNDS} interleaved rounds; the share is the median of the rounds' own "
            "ratios. The bare model takes the same steps with the same number of rows, without "
            "bookkeeping.\n\n"
            f"{format_markdown(self.rows, COLUMNS)}\n\n```\n{command}\n```\n"
        )


def measure(setting: Setting) -> Figures:
    """Time all implementations in turn.

    Raises:
        ConfigError: if there is no such model, or the beam is invalid.
    """
    torch.manual_seed(1)
    model = build({"name": setting.model}, Dims(FEATURES, VOCABULARY, CLASSES), "--model").eval()
    batch = make_batch(setting.batch)
    options = {"beam": setting.beam, "max_words": STEPS - 1, "min_words": STEPS - 1}
    decoding = validate(DecodingConfig, options, "command line")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, batch = model.to(device), batch.to(device)
    programs: dict[str, Callable[[], Any]] = {
        "bare model": lambda: bare(model, batch, setting.beam),
        "reference": lambda: with_reference(model, batch, decoding),
    }
    if device.type == "cuda":
        search = make_search(model, decoding, Constraints(), device)
        programs["kernel"] = lambda: search(batch)
    peer = transformers_peer(model, setting)
    if peer is not None:
        programs["transformers"] = peer
    return Figures(setting, interleave(programs, ROUNDS))


def machine() -> str:
    """The name of the GPU, or the number of CPU threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU thread(s)"


def make_batch(images: int) -> Batch:
    """A batch of random images of COCO's usual sizes."""
    return Batch(
        keys=tuple(str(i) for i in range(images)),
        image_ids=torch.arange(images),
        regions=torch.randn(images, REGIONS, FEATURES),
        region_mask=torch.ones(images, REGIONS, dtype=torch.bool),
        region_sets=torch.zeros(images, REGIONS, dtype=torch.long),
        boxes=torch.rand(images, REGIONS, 4),
        class_ids=torch.randint(CLASSES, (images, REGIONS, 8)),
        class_probs=torch.full((images, REGIONS, 8), 1 / 8),
        concepts=torch.randint(4, VOCABULARY, (images, CONCEPTS)),
        concept_mask=torch.ones(images, CONCEPTS, dtype=torch.bool),
        tokens=torch.full((images, 1, 2), BOS),
        objects=torch.zeros(images, 0, 4),
        object_captions=torch.zeros(images, 0, dtype=torch.long),
        object_words=torch.zeros(images, 0, 3, dtype=torch.long),
        object_classes=torch.zeros(images, 0, dtype=torch.long),
        relations=torch.zeros(images, 0, 3, dtype=torch.long),
    )


def with_reference(model: CaptionModel[Any], batch: Batch, decoding: DecodingConfig) -> None:
    """Beam search without the kernel, as on a machine without a GPU."""
    with patch.object(beam_step, "MAX_BEAM", 0):
        beam_search(model, batch, decoding)


@torch.inference_mode()
def bare(model: CaptionModel[Any], batch: Batch, beam: int) -> None:
    """The same model steps with the same number of rows, without a search."""
    state = model.start(model.encode(batch), beam, STEPS)
    token = torch.full((len(batch.image_ids), beam), BOS, device=batch.regions.device)
    for _ in range(STEPS):
        _, state = model.step(state, token)


def transformers_peer(model: CaptionModel[Any], setting: Setting) -> Callable[[], Any] | None:
    """Beam search by Hugging Face's generate on an encoder-decoder with at most as many parameters.

    BART with the model's width, heads and feed-forward size, one encoder layer over as many
    positions as regions, and as many decoder layers as the number of parameters allows.
    """
    try:
        peer = largest_bart(VOCABULARY, sum(parameter.numel() for parameter in model.parameters()))
    except ImportError:
        print("transformers is not installed; for its row: pip install -e '.[bench]'")
        return None
    device = next(model.parameters()).device
    peer = peer.eval().to(device)
    inputs = torch.randint(4, VOCABULARY, (setting.batch, REGIONS), device=device)
    lengths = {"max_new_tokens": STEPS, "min_new_tokens": STEPS}

    def generate() -> None:
        with torch.inference_mode():
            peer.generate(inputs, num_beams=setting.beam, do_sample=False, **lengths)

    layers = peer.config.decoder_layers
    print(f"transformers: BART, 1 encoder layer, {layers} decoder layer(s)")
    return generate
