"""Any vision backbone of Hugging Face transformers: the grid of its patches or of its last stage.

``transformers:MODEL``, where MODEL is a folder or the name of a model. The picture is squeezed to
the size in the model's ``preprocessor_config.json``, and not cropped, so that the grid covers all
of it; tokens in front of the patches (CLS, registers) are left out. Weights are read from
safetensors files only, and no code that comes with a model is run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shards.extractor_spec import Preprocessing
from shards.extractors import extractor
from shards.extractors.grid import GridExtractor, resample_name, scaled, wrap_load_errors
from shards.schema import ShardError

if TYPE_CHECKING:
    from torch import Tensor, nn

KIND = "transformers"


@extractor(KIND)
class TransformersGrid(GridExtractor):
    def __init__(self, source: str) -> None:
        if not source:
            raise ShardError(f"backbone {KIND!r}: no model; give {KIND}:FOLDER or {KIND}:NAME")
        self._name = f"{KIND}:{source}"
        with wrap_load_errors(self._name, "photographs"):
            from transformers import AutoModel
            from transformers.image_processing_base import ImageProcessingMixin

            settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
            with _without_report():
                model, loaded = AutoModel.from_pretrained(
                    source, use_safetensors=True, output_loading_info=True
                )
            _fill_missing(self._name, model, loaded["missing_keys"])
            # Models of pictures and texts, such as CLIP, have a part for pictures.
            self._take(getattr(model, "vision_model", model), _preprocessing(self._name, settings))

    def _map(self, pixels: Tensor) -> Tensor:
        hidden: Tensor = self._network(pixel_values=pixels).last_hidden_state
        if hidden.ndim == 4:
            return hidden
        side = math.isqrt(hidden.shape[1])
        patches = hidden[:, hidden.shape[1] - side * side :]
        return patches.transpose(1, 2).unflatten(2, (side, side))


@contextmanager
def _without_report() -> Iterator[None]:
    """Silence transformers, which prints weights that are missing or not used; we check them."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(verbosity)
    if bar:
        logging.enable_progress_bar()


def _fill_missing(name: str, model: nn.Module, missing: Collection[str]) -> None:
    """Set a pooler without weights, which the grid does not need, to zero instead of at random.

    Raises:
        ShardError: if other weights are missing.
    """
    for weight, values in model.named_parameters():
        if weight in missing:
            if "pooler" not in weight:
                raise ShardError(f"backbone {name!r}: no weights {weight!r}; give the whole model")
            values.data.zero_()


def _preprocessing(name: str, settings: Mapping[str, Any]) -> Preprocessing:
    """What an image processor's settings say about size and numbers."""
    size = settings.get("crop_size") or settings["size"]
    if isinstance(size, Mapping):
        size = size.get("height") or size["shortest_edge"]
    return Preprocessing(
        size,
        size,
        resample_name(settings.get("resample", 2)),
        scaled(settings["image_mean"], name),
        scaled(settings["image_std"], name),
    )
