"""The programs of ``bench.py train`` train on the same captions, and its arithmetic is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train import measure
from benchmarks.train_corpus import UsefulFlops, caption_lengths, first_image, make_shards
from benchmarks.train_figures import Figures, Measured
from benchmarks.train_process import Inspection, Round
from benchmarks.train_programs import (
    ChunkedCrossEntropy,
    PackedCrossEntropy,
    PaddedCrossEntropy,
    Sizes,
    TransformerLoss,
    one_caption_each,
)
from benchmarks.train_sampling import Sample, plain_samples, with_lengths
from benchmarks.train_setup import Setup, Task
from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.config.decoding import SamplingConfig
from capdist.data.rank_plan import Ranks
from capdist.decoding.sampling import sample_captions
from capdist.distributed.process_group import ProcessGroup
from capdist.models.base import build
from capdist.vocab import EOS, PAD
from tests.support.models import DIMS, make_batch, small


def uneven() -> Batch:
    """Captions of different lengths, one of them missing."""
    batch = make_batch()
    batch.tokens[0, 1] = PAD
    batch.tokens[1, 0, 4:] = PAD
    return batch


def test_captions_are_as_long_as_those_of_coco() -> None:
    lengths = caption_lengths(np.random.default_rng(1), (20_000,))
    assert lengths.mean() == pytest.approx(10.5, abs=0.1)
    assert lengths.std() == pytest.approx(2.4, abs=0.1)
    assert lengths.min() == 8
    assert lengths.max() == 20


@pytest.mark.parametrize("name", ["glied", "updown"])
def test_useful_flops_are_those_of_every_caption_alone(name: str) -> None:
    model, batch = build(small(name), DIMS).eval(), uneven()
    image = first_image(batch)
    useful = UsefulFlops(model, image)
    assert useful(batch) > 0
    same = replace(batch, tokens=batch.tokens[:, :1, :4].clone(), keys=("a", "b", "c"))
    counted = 0
    for row in range(3):
        alone = replace(image, tokens=same.tokens[row : row + 1])
        with FlopCounterMode(display=False) as counter:
            PaddedCrossEntropy(model)(alone).backward()
        counted += counter.get_total_flops()
    assert useful(same) == counted


@pytest.mark.parametrize("kind", [PackedCrossEntropy, ChunkedCrossEntropy])
def test_every_means_alone_gives_the_same_loss(kind: type[nn.Module]) -> None:
    model, batch = build(small("glied"), DIMS).eval(), uneven()
    torch.testing.assert_close(kind(model)(batch), PaddedCrossEntropy(model)(batch))


@pytest.mark.parametrize("name", ["glied", "att2in"])
def test_an_image_for_every_caption_gives_the_same_loss(name: str) -> None:
    loss, batch = PaddedCrossEntropy(build(small(name), DIMS)).eval(), uneven()
    torch.testing.assert_close(loss(one_caption_each(batch)), loss(batch))


def test_the_transformer_reads_neither_padding_nor_later_words() -> None:
    loss = TransformerLoss(10_000, Sizes(width=16, heads=2, hidden=24))
    loss.words, loss.regions = nn.Embedding(23, 16), nn.Linear(7, 16)
    loss.output = nn.Linear(16, 23)
    loss.eval()
    batch = uneven()
    padded = torch.nn.functional.pad(batch.tokens, (0, 3), value=PAD)
    regions = batch.regions.masked_fill(~batch.region_mask[..., None], 9.0)
    other = replace(batch, tokens=padded, regions=regions)
    torch.testing.assert_close(loss(other), loss(batch))
    torch.testing.assert_close(loss(one_caption_each(batch)), loss(batch))


@pytest.mark.parametrize("sample", [sample_captions, plain_samples])
def test_sampled_captions_end_where_those_of_coco_do(sample: Sample) -> None:
    model, batch = build(small("lstm"), DIMS).eval(), make_batch()
    sampling = SamplingConfig(samples=200, max_words=20)
    tokens = with_lengths(sample)(model, model.encode(batch), batch, sampling, 3)
    words = ((tokens != PAD) & (tokens != EOS)).sum(-1).float()
    assert ((tokens == EOS).sum(-1) == 1).all()
    assert words.min() == 8
    assert words.mean().item() == pytest.approx(10.5, abs=0.4)


def test_all_programs_read_the_same_batches(tmp_path: Path) -> None:
    make_shards(tmp_path, 6)
    task = Task("torch", 1, small("glied"), "xe", 4, tmp_path)
    group = ProcessGroup(Ranks(), torch.device("cpu"))
    batch = next(Setup(task, group).endless())
    assert batch.regions.shape == (4, 36, 2048)
    assert batch.tokens.shape[:2] == (4, 5)
    assert batch.concept_mask.all()
    again = next(Setup(replace(task, program="loop"), group).endless())
    assert torch.equal(again.tokens, batch.tokens)


def test_an_unknown_config_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--model nosuch: .*configs has no nosuch\.json"):
        measure("nosuch", "xe", None, "programs")


def test_figures_are_ratios_of_the_same_rounds() -> None:
    inspection = Inspection(flops=150.0, host_reads=2, host_wait=0.1, all_reduces=3, peak=10**6)
    fast, slow = (
        Measured(
            [Round(1.0 * factor, {"data": 0.1}, 200.0), Round(10.0 * factor, {}, 20.0)],
            inspection,
            loss,
            captions=5.0,
            useful=100.0,
        )
        for factor, loss in ((1, 2.0), (2, 2.002))
    )
    programs = {(1, "torch"): fast, (1, "loop"): slow, (1, "torch, bf16"): replace(fast, loss=3.0)}
    figures = Figures("glied", "xe", 1, programs, 0.5)
    assert figures.speeds["torch, 1 rank"]["x base"] == 2.0
    assert figures.speeds["torch, 1 rank"]["useful %"] == 50.0
    assert figures.speeds["loop, 1 rank"]["arithmetic %"] == 150.0
    assert figures.loss_difference == pytest.approx(0.001, rel=0.01)
    page = figures.page("python")
    assert "| torch, 1 rank " in page
    assert "plain PyTorch loop" in page
    assert "useful %:" in page
    assert "ZeRO" not in page  # none of its programs
    sampled = replace(figures, stage="scst").page("python")
    assert "useful %" not in sampled
    assert "torch.multinomial" in sampled
