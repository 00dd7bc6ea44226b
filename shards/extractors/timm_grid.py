"""Any backbone of timm: the grid of its last feature map.

``timm:MODEL``, where MODEL is a name of timm, or ``local-dir:FOLDER`` with a model saved for the
hub. The picture is squeezed to the size that the model was trained with, and not cropped, so that
the grid covers all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shards.extractor_spec import Preprocessing
from shards.extractors import extractor
from shards.extractors.grid import GridExtractor, resample_name, scaled, wrap_load_errors
from shards.schema import ShardError

if TYPE_CHECKING:
    from torch import Tensor

KIND = "timm"


@extractor(KIND)
class TimmGrid(GridExtractor):
    def __init__(self, source: str) -> None:
        if not source:
            raise ShardError(f"backbone {KIND!r}: no model; give {KIND}:NAME")
        name = f"{KIND}:{source}"
        with wrap_load_errors(name, "timm"):
            import timm

            model = timm.create_model(
                source, pretrained=True, features_only=True, out_indices=(-1,)
            )
            settings = model.pretrained_cfg
            _, height, width = settings["input_size"]
            preprocessing = Preprocessing(
                width,
                height,
                resample_name(settings["interpolation"]),
                scaled(settings["mean"], name),
                scaled(settings["std"], name),
            )
            self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
            self._take(model, preprocessing)

    def _map(self, pixels: Tensor) -> Tensor:
        grid: Tensor = self._network(pixels)[-1]
        return grid.permute(0, 3, 1, 2) if self._channels_last else grid
