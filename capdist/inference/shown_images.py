"""The few validation images whose captions are drawn: picture, words and attention."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from capdist.batch import Batch
from capdist.config.data import DataConfig
from capdist.data.dataset import evaluation_batches, members
from capdist.data.rank_plan import Ranks
from capdist.decoding.generate import Caption
from capdist.inference.looks import Names, look
from capdist.models.base import CaptionModel
from capdist.reporting.attention_picture import draw_attention
from capdist.reporting.report.looks import BOX_UNIT, Look
from capdist.tracking.base import ShownImage
from capdist.vocab import Vocabulary
from shards.json_types import ImageId
from shards.manifest import Manifest
from shards.schema import decode_sample_json
from shards.tokenisers import CaptionText

SHOWN = 4
#: Of an image whose size is unknown, width / height.
_ASPECT = 4 / 3


@dataclass(frozen=True)
class ShownImages:
    """The first `SHOWN` images of a split: their features, ids, shapes, and pictures if any."""

    batch: Batch
    names: Names
    text: CaptionText
    ids: list[ImageId]
    aspects: list[float]
    pictures: list[bytes | None]

    @classmethod
    def read(
        cls, manifest: Manifest, split: str, data: DataConfig, vocab: Vocabulary
    ) -> ShownImages:
        """Read them once, in this process.

        Raises:
            ShardError: if a member is damaged.
        """
        first = manifest.split(split)[0]
        count = min(SHOWN, first.samples)
        reader = data.model_copy(update={"reader": "mapped", "workers": 0})
        batches = evaluation_batches(manifest, split, reader, count, vocab, Ranks())
        batch = batches.of([(0, number) for number in range(count)])
        read = islice(manifest.read(split, "json"), count)
        found = [decode_sample_json(key, content) for key, content in read]
        has_pictures = "png" in members(manifest, split)
        pictures = dict(islice(manifest.read(split, "png"), count)) if has_pictures else {}
        return cls(
            batch,
            Names(vocab, manifest.class_names),
            manifest.text,
            [sample["image_id"] for sample in found],
            [s["width"] / s["height"] if s["height"] else _ASPECT for s in found],
            [_readable(manifest, key, pictures.get(key)) for key in batch.keys],
        )

    def draw(
        self, model: CaptionModel[Any], captions: Mapping[int, Sequence[str]]
    ) -> list[ShownImage]:
        """What the words of captions attended to.

        Args:
            model: in evaluation mode.
            captions: the words by image number; of more images than these.
        """
        numbers = self.batch.image_ids.tolist()
        decoded = {n: [Caption(list(captions[n]), 0.0)] for n in numbers}
        looks = look(model, self.names, [self.batch], decoded)
        rows = zip(self.ids, self.aspects, self.pictures, looks, strict=True)
        return [
            ShownImage(image, self.text.join(seen.beams[0].words), _draw(picture, aspect, seen))
            for image, aspect, picture, seen in rows
        ]


def _readable(manifest: Manifest, key: str, picture: bytes | None) -> bytes | None:
    """A picture that can be drawn, or None; training needs none of them."""
    try:
        if picture is not None:
            Image.open(io.BytesIO(picture), formats=["PNG"]).load()
    except Exception as error:  # pillow raises many kinds
        print(f"{manifest.location}: sample {key}: member png is not a picture ({error})")
        return None
    return picture


def _draw(picture: bytes | None, aspect: float, seen: Look) -> bytes | None:
    words, weights = seen.beams[0].words, region_weights(seen)
    if weights is None:
        if picture is None:
            return None
        words, weights = [], np.zeros((0, len(seen.boxes)))
    boxes = np.array(seen.boxes, np.float64).reshape(-1, 4) / BOX_UNIT
    return draw_attention(picture, aspect, boxes, words, weights)


def region_weights(seen: Look) -> NDArray[np.float64] | None:
    """(L, R) of the attention to regions; of several, the one that is closest to the word.

    None if the model does not attend to regions.
    """
    names = [name for name in seen.maps if name.partition("/")[0] == "regions"]
    if not names:
        return None
    chosen = next((name for name in ("regions", "regions/local") if name in names), names[0])
    return seen.maps[chosen].weights.astype(np.float64)
