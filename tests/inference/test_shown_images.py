"""The validation images whose attention is drawn."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from capdist.config.data import DataConfig
from capdist.inference.looks import all_attention
from capdist.inference.shown_images import SHOWN, ShownImages
from capdist.models.base import Dims, build
from capdist.reporting.attention_picture import HEIGHT, draw_attention
from capdist.vocab import EOS
from shards.manifest import Manifest
from shards.writer import write
from tests.support.runs import SMALL
from tests.support.shards import TinySource, count_words

WORDS = ("a", "red", "dog")


class Pictured(TinySource):
    """Images with pictures, one of them damaged."""

    def load(self, split: str, ids: Any) -> Any:
        for sample in super().load(split, ids):
            file = io.BytesIO()
            Image.new("RGB", (64, 48), (sample.image_id % 256, 0, 0)).save(file, "PNG")
            damaged = sample.image_id == 1001
            yield replace(sample, picture=b"no picture" if damaged else file.getvalue())


def shown_images(manifest: Manifest) -> ShownImages:
    return ShownImages.read(manifest, "val", DataConfig(shards=""), count_words(manifest, 1))


def model(manifest: Manifest, section: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    dims = Dims(manifest.features.dim, len(count_words(manifest, 1)))
    return build(section, dims, "test").eval()


def pixels(png: bytes | None) -> NDArray[np.int64]:
    assert png
    return np.array(Image.open(io.BytesIO(png)), np.int64)


def test_words_are_drawn_with_their_own_attention(tiny: Manifest) -> None:
    images, glied = shown_images(tiny), model(tiny, SMALL)
    captions = dict.fromkeys(range(1000, 1007), WORDS)
    drawn = images.draw(glied, captions)
    assert [shown.image for shown in drawn] == list(range(1000, 1000 + SHOWN))
    assert {shown.caption for shown in drawn} == {"a red dog"}
    ids = [images.names.vocab.id(word) for word in WORDS]
    with torch.inference_mode():
        tokens = torch.tensor([[[*ids, EOS]]] * SHOWN)
        maps = all_attention(glied, images.batch, tokens)["regions/local"][:, 0, :3]
    for row, shown in enumerate(drawn):
        regions = images.batch.region_mask[row]
        weights = maps[row][:, regions].double().numpy()
        boxes = images.batch.boxes[row, regions].double().numpy()
        expected = draw_attention(None, 64 / 48, boxes, list(WORDS), weights)
        difference = np.abs(pixels(shown.png) - pixels(expected))
        assert difference.max() <= 1  # weights are stored in 255 steps


def test_pictures_are_drawn_and_a_damaged_one_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = write(Pictured(), tmp_path, samples_per_shard=8, workers=1)
    images = shown_images(manifest)
    assert [picture is None for picture in images.pictures] == [False, True, False, False]
    assert "sample 000000001001: member png is not a picture" in capfd.readouterr().out
    drawn = images.draw(model(manifest, SMALL), dict.fromkeys(range(1000, 1007), WORDS))
    assert (pixels(drawn[0].png)[HEIGHT // 2, 9] == [1000 % 256, 0, 0]).all()


def test_a_model_without_attention_has_pictures_only(tiny: Manifest, tmp_path: Path) -> None:
    nic = {"name": "nic", "width": 8}
    captions = dict.fromkeys(range(1000, 1007), WORDS)
    without = shown_images(tiny).draw(model(tiny, nic), captions)
    assert [shown.png for shown in without] == [None] * SHOWN
    manifest = write(Pictured(), tmp_path, samples_per_shard=8, workers=1)
    (first, *_) = shown_images(manifest).draw(model(manifest, nic), captions)
    assert pixels(first.png).shape[1] == round(HEIGHT * 64 / 48)
