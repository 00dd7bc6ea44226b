"""Decoding beside the bare model, and beside Hugging Face's generate.

The reference is the beam step in plain torch; where there is a GPU, the kernel in a captured graph
is beside it. All decode the same number of steps with the same rows: ends are forbidden before the
last step. The bare model takes the steps without any bookkeeping: nobody reads its logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

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

#: COCO's usual sizes: V with specials, F, R, A.
VOCABULARY, FEATURES, REGIONS, CONCEPTS, CLASSES = 9_488, 2_048, 36, 36, 1_601
STEPS, ROUNDS = 20, 15
COLUMNS = ("images/s", "slowest", "fastest", "of bare %")


@dataclass(frozen=True)
class Setting:
    """What is decoded."""

    model: str
    batch: int
    beam: int


@dataclass(frozen=True)
class Figures:
    """What was measured; speeds in images/s."""

    setting: Setting
    timings: dict[str, Timing]

    def speed(self, name: str) -> float:
        """Images/s of the median round."""
        return self.setting.batch / self.timings[name].median

    def ratio(self, name: str, other: str) -> float:
        """How many times as fast as the other."""
        return self.timings[name].times_as_fast(self.timings[other])

    @property
    def ours(self) -> str:
        """The row that users get."""
        return "kernel" if "kernel" in self.timings else "reference"

    def to_json(self) -> dict[str, Any]:
        """All figures, and the ratios that count."""
        images = {
            name: {
                "median": self.speed(name),
                "slowest": self.setting.batch / timing.spread[1],
                "fastest": self.setting.batch / timing.spread[0],
            }
            for name, timing in self.timings.items()
        }
        found: dict[str, Any] = {
            **vars(self.setting),
            "steps": STEPS,
            "threads": torch.get_num_threads(),
            "images_per_s": images,
            "fraction_of_bare": self.ratio(self.ours, "bare model"),
        }
        if "transformers" in self.timings:
            found["ratio_vs_transformers"] = self.ratio(self.ours, "transformers")
        return found

    @property
    def rows(self) -> dict[str, dict[str, float]]:
        """The same as a table's."""
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
        """For a terminal."""
        return format_table(self.rows, COLUMNS)

    def page(self, command: str) -> str:
        """As Markdown, with the command that measures it."""
        setting = self.setting
        return (
            f"# Decoding: {setting.model}, beam {setting.beam}, batches of {setting.batch}\n\n"
            f"{STEPS} steps, V = {VOCABULARY}, {REGIONS} regions, {CONCEPTS} concepts, random "
            f"weights, fp32, {machine()}, torch {torch.__version__}. Median, slowest and "
            f"fastest of {ROUNDS} rounds in which all took turns; the share is the median of the "
            "rounds' own. The bare model takes the same steps with the same rows and no "
            "bookkeeping.\n\n"
            f"{format_markdown(self.rows, COLUMNS)}\n\n```\n{command}\n```\n"
        )


def measure(setting: Setting) -> Figures:
    """All contestants in turn.

    Raises:
        ConfigError: if there is no such model, or that is no beam.
    """
    torch.manual_seed(1)
    model = build({"name": setting.model}, Dims(FEATURES, VOCABULARY, CLASSES), "--model").eval()
    batch = make_batch(setting.batch)
    words = {"beam": setting.beam, "max_words": STEPS - 1, "min_words": STEPS - 1}
    decoding = validate(DecodingConfig, words, "command line")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, batch = model.to(device), batch.to(device)
    contestants: dict[str, Callable[[], Any]] = {
        "bare model": lambda: bare(model, batch, setting.beam),
        "reference": lambda: with_reference(model, batch, decoding),
    }
    if device.type == "cuda":
        replay = make_search(model, decoding, Constraints(), device)
        contestants["kernel"] = lambda: replay(batch)
    peer = transformers_peer(model, setting)
    if peer is not None:
        contestants["transformers"] = peer
    return Figures(setting, interleave(contestants, ROUNDS))


def machine() -> str:
    """The GPU, or how many CPU threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU thread(s)"


def make_batch(images: int) -> Batch:
    """Random images of the usual size."""
    return Batch(
        keys=tuple(str(i) for i in range(images)),
        image_ids=torch.arange(images),
        regions=torch.randn(images, REGIONS, FEATURES),
        region_mask=torch.ones(images, REGIONS, dtype=torch.bool),
        boxes=torch.rand(images, REGIONS, 4),
        class_ids=torch.randint(CLASSES, (images, REGIONS, 8)),
        class_probs=torch.full((images, REGIONS, 8), 1 / 8),
        concepts=torch.randint(4, VOCABULARY, (images, CONCEPTS)),
        concept_mask=torch.ones(images, CONCEPTS, dtype=torch.bool),
        tokens=torch.full((images, 1, 2), BOS),
        objects=torch.zeros(images, 0, 4),
        object_captions=torch.zeros(images, 0, dtype=torch.long),
    )


def with_reference(model: CaptionModel[Any], batch: Batch, decoding: DecodingConfig) -> None:
    """The search as it is where there is no GPU."""
    with patch.object(beam_step, "WIDEST", 0):
        beam_search(model, batch, decoding)


@torch.inference_mode()
def bare(model: CaptionModel[Any], batch: Batch, beam: int) -> None:
    """The same steps with the same rows, and nothing else."""
    state = model.start(model.encode(batch), beam, STEPS)
    token = torch.full((len(batch.image_ids), beam), BOS, device=batch.regions.device)
    for _ in range(STEPS):
        _, state = model.step(state, token)


def transformers_peer(model: CaptionModel[Any], setting: Setting) -> Callable[[], Any] | None:
    """Beam search of Hugging Face's generate on an encoder-decoder of no more parameters.

    BART with the model's width, heads and feed-forward, one encoder layer over as many positions
    as regions, and as many decoder layers as fit into the model's number of parameters.
    """
    try:
        from transformers import BartConfig, BartForConditionalGeneration
    except ImportError:
        print("transformers is not installed: pip install -e '.[bench]' for its row")
        return None
    limit = sum(parameter.numel() for parameter in model.parameters())

    def bart(layers: int) -> Any:
        config = BartConfig(
            vocab_size=VOCABULARY,
            d_model=512,
            encoder_layers=1,
            decoder_layers=layers,
            encoder_attention_heads=8,
            decoder_attention_heads=8,
            encoder_ffn_dim=2048,
            decoder_ffn_dim=2048,
            max_position_embeddings=64,
            forced_eos_token_id=None,
        )
        peer: Any = BartForConditionalGeneration(config)
        return peer.eval()

    layers = 1
    while sum(p.numel() for p in bart(layers + 1).parameters()) <= limit:
        layers += 1
    device = next(model.parameters()).device
    peer = bart(layers).to(device)
    inputs = torch.randint(4, VOCABULARY, (setting.batch, REGIONS), device=device)
    lengths = {"max_new_tokens": STEPS, "min_new_tokens": STEPS}

    def generate() -> None:
        with torch.inference_mode():
            peer.generate(inputs, num_beams=setting.beam, do_sample=False, **lengths)

    print(f"transformers: BART, 1 encoder layer, {layers} decoder layer(s)")
    return generate
