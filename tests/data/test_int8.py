"""Shards of int8 regions give the batches of their floats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from capdist.config.data import DataConfig
from capdist.data.dataset import evaluation_batches
from capdist.data.rank_plan import Ranks
from capdist.vocab import Vocabulary
from shards.feature_spec import FeatureSpec
from shards.schema import Sample, ShardError
from shards.storage import quantize_int8
from shards.writer import write
from tests.support.shards import WORDS, TinySource, tiny_sample

SCALE = (0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625)


@dataclass(frozen=True)
class Int8Source(TinySource):
    """The tiny images with int8 regions."""

    @property
    def features(self) -> FeatureSpec:
        return FeatureSpec("tiny-v1", self.dim, 5, scale=SCALE)

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            yield replace(sample, regions=quantize_int8(sample.regions, SCALE))


@pytest.mark.parametrize("reader", ["stream", "mapped"])
def test_int8_regions_are_dequantised(tmp_path: Path, reader: str) -> None:
    manifest = write(Int8Source(), tmp_path, samples_per_shard=8, workers=1)
    data = DataConfig(shards=str(tmp_path), reader=reader, workers=0)
    vocab = Vocabulary(list(WORDS))
    batches = evaluation_batches(manifest, "val", data, 4, vocab, Ranks())
    seen = 0
    # Of mapped, the second epoch is copied from maps.
    epochs = chain(batches.epoch(0), batches.epoch(1))
    for batch in (micro for step in epochs for micro in step):
        for row, image in enumerate(batch.image_ids.tolist()):
            steps = np.rint(tiny_sample(image).regions / np.float32(SCALE)).clip(-127, 127)
            found = batch.regions[row][batch.region_mask[row]]
            assert found.dtype == torch.float32
            np.testing.assert_array_equal(found, steps * np.float32(SCALE))
            seen += 1
    assert seen == 14


@pytest.mark.parametrize("reader", ["stream", "mapped"])
def test_regions_of_another_type_than_the_manifest_are_refused(tmp_path: Path, reader: str) -> None:
    manifest = write(Int8Source(), tmp_path, samples_per_shard=8, workers=1)
    wrong = replace(manifest, features=manifest.features.without_scale())
    data = DataConfig(shards=str(tmp_path), reader=reader, workers=0)
    batches = evaluation_batches(wrong, "val", data, 4, Vocabulary(list(WORDS)), Ranks())
    line = r"val-\S+: sample \S+: sample \S+: regions are int8, but the manifest says float16"
    with pytest.raises(ShardError, match=line):
        next(batches.epoch(0))
