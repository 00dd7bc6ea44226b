"""The programs of the training benchmark: ours, and plain PyTorch loops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from benchmarks.decode import FEATURES, VOCABULARY
from benchmarks.train_setup import LR, Setup
from capdist.batch import Batch
from capdist.distributed.part_timer import PartTimer
from capdist.engines.factory import make_engine
from capdist.engines.torch_engine import TorchEngine
from capdist.inference.run_folder import TrainingProgress
from capdist.losses.self_critical import leave_one_out_baseline
from capdist.models.base import CaptionModel
from capdist.models.layers import Dropout, positions
from capdist.objectives.sampled_captions import SampledCaptions
from capdist.objectives.self_critical import SelfCritical
from capdist.signals import StopSignal
from capdist.training.step_record import StepRecord
from capdist.training.trainer import Trainer
from capdist.vocab import BOS, PAD, UNK
from capdist.words import Words


class Program(Protocol):
    """Trains on the batches of one rank; ``seconds`` are those of the last step's parts."""

    seconds: dict[str, float]

    def step(self) -> None:
        """Read a batch and update the weights."""

    def loss(self, batch: Batch) -> float | None:
        """Per caption, without dropout; None: of another model than ours."""


class Ours:
    """The loop of `capdist train`, by one of its engines.

    Without ``overlap``, torch sums gradients after the backward pass only.
    """

    def __init__(self, setup: Setup, *, overlap: bool = True) -> None:
        config, group = setup.task.config, setup.group
        self.objective = setup.objective()
        self.timer = PartTimer()
        self._time_model()
        stage = config.stages[0]
        engine = make_engine(self.objective, config, stage, group)
        if not overlap and (summed := cast(TorchEngine, engine).gradient_sum):
            summed.begin = lambda: None  # type: ignore[method-assign]
        unused = cast(Any, None)
        self.trainer = Trainer(
            config,
            stage,
            self.objective,
            engine,
            setup.batches(),
            unused,
            unused,
            unused,
            StopSignal(),
            group,
        )
        self.records = self._records()
        self.seconds: dict[str, float] = {}

    def step(self) -> None:
        self.timer.seconds.clear()
        record = next(self.records)
        parts = dict(record.seconds)
        model = self.timer.seconds.get("model", 0.0)
        parts["loss"] = parts["forward"] - model
        parts["forward"] = model
        parts["data"] = record.data_s
        parts["other"] = record.step_s - sum(parts.values())
        self.seconds = parts

    def loss(self, batch: Batch) -> float:
        self.objective.eval()
        with torch.no_grad():
            found = float(self.objective(batch)) / batch.caption_count
        self.objective.train()
        return found

    def _records(self) -> Iterator[StepRecord]:
        for epoch in count():
            for record, *_ in self.trainer.epoch(TrainingProgress(epoch=epoch)):
                yield record

    def _time_model(self) -> None:
        """Time what the objective calls of its model; sampling is not part of the forward pass."""
        model = cast(Any, self.objective.model)
        for name in ("encode", "states"):
            setattr(model, name, self._timed(getattr(model, name)))

    def _timed(self, run: Any) -> Any:
        def timed(*args: Any) -> Any:
            with self.timer.time("model") if torch.is_grad_enabled() else nullcontext():
                return run(*args)

        return timed


class Loop:
    """What a user of PyTorch writes: batches, a loss, Adam, DistributedDataParallel.

    ``module`` maps a batch to the sum of its loss; ``per_caption`` repeats an image for every
    caption; ``fused`` is Adam's; ``dropout`` is ours instead of torch's.
    """

    def __init__(
        self,
        setup: Setup,
        module: nn.Module,
        *,
        per_caption: bool = False,
        compiled: bool = False,
        fused: bool = True,
        dropout: bool = False,
    ) -> None:
        if not dropout:
            use_torchs_dropout(module)
        self.device, self.per_caption = setup.group.device, per_caption
        self.module = module.to(self.device).train()
        self.batches = setup.endless()
        self.optimizer = torch.optim.Adam(module.parameters(), LR, fused=fused or None)
        run = torch.compile(self.module, dynamic=True) if compiled else self.module
        self.run = DistributedDataParallel(run) if setup.group.ranks.world > 1 else run
        self.seconds: dict[str, float] = {}

    def step(self) -> None:
        timer = PartTimer()
        with timer.time("data"):
            batch = self._batch()
        with timer.time("forward"):
            loss = self.run(batch) / batch.token_count
        with timer.time("backward"):
            loss.backward()
        with timer.time("update"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        with timer.time("other"):
            loss.item()
        self.seconds = timer.seconds

    def loss(self, batch: Batch) -> float:
        self.module.eval()
        with torch.no_grad():
            found = float(self.module(batch)) / batch.caption_count
        self.module.train()
        return found

    def _batch(self) -> Batch:
        batch = next(self.batches)
        return one_caption_each(batch) if self.per_caption else batch


def use_torchs_dropout(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, Dropout):
            part.__class__ = nn.Dropout  # type: ignore[assignment]


def one_caption_each(batch: Batch) -> Batch:
    """A batch whose images are repeated for each of their S captions."""
    captions = batch.tokens.shape[1]
    repeated: dict[str, Any] = {
        name: value.repeat_interleave(captions, 0)
        for name, value in vars(batch).items()
        if isinstance(value, Tensor) and name != "tokens"
    }
    keys = tuple(key for key in batch.keys for _ in range(captions))
    return replace(batch, **repeated, keys=keys, tokens=batch.tokens.flatten(0, 1)[:, None])


class PaddedCrossEntropy(nn.Module):
    """A model's cross entropy over logits of all positions, padded to the longest caption."""

    def __init__(self, model: CaptionModel[Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        logits = self.model(self.model.encode(batch), batch.inputs)
        return summed_cross_entropy(logits, batch)


class PackedCrossEntropy(nn.Module):
    """The cross entropy over logits of real words."""

    def __init__(self, model: CaptionModel[Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        words = batch.words
        logits = self.model.output(self.model.states(self.model.encode(batch), words))
        return functional.cross_entropy(logits, words.pick(batch.targets), reduction="sum")


class ChunkedCrossEntropy(nn.Module):
    """The cross entropy by the output layer, of padded captions."""

    def __init__(self, model: CaptionModel[Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        words = Words.all(batch.inputs)
        targets = words.pick(batch.targets)
        states = self.model.states(self.model.encode(batch), words)
        loss: Tensor = self.model.output(states, targets, (targets != PAD).float())
        return loss


def summed_cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    targets = batch.targets.flatten()
    return functional.cross_entropy(
        logits.flatten(0, 2), targets, ignore_index=PAD, reduction="sum"
    )


class PaddedSelfCritical(nn.Module):
    """−Σ (r − b) log π over all positions of the captions that `sampler` draws."""

    def __init__(self, objective: SelfCritical, device: torch.device) -> None:
        super().__init__()
        self.model, self.sampler, self.device = objective.model, objective.sampler, device

    def forward(self, images: Batch) -> Tensor:
        self.eval()
        (batch,) = self.sampler.sample_step([images], 0, self.device)
        assert isinstance(batch, SampledCaptions)
        assert batch.earned is not None
        logits = self.model(self.model.encode(batch), batch.inputs)
        never = torch.tensor([PAD, BOS, UNK], device=logits.device)
        log_probs = logits.index_fill(-1, never, -torch.inf).log_softmax(-1)
        words = batch.targets.masked_fill(batch.targets == PAD, UNK + 1)
        chosen = log_probs.gather(-1, words[..., None])[..., 0]
        rewards = batch.rewards(batch.earned)
        advantage = (rewards - leave_one_out_baseline(rewards)).to(chosen)
        return -(advantage * chosen.masked_fill(batch.targets == PAD, 0).sum(-1)).sum()


@dataclass(frozen=True)
class Sizes:
    """Of a Transformer: D, heads, width inside the feed-forward layers."""

    width: int = 512
    heads: int = 8
    hidden: int = 2048


class TransformerLoss(nn.Module):
    """torch.nn's encoder of one layer and decoder, with the cross entropy of five captions.

    The decoder has the number of layers that comes closest to ``parameters``.
    """

    def __init__(self, parameters: int, sizes: Sizes) -> None:
        super().__init__()
        width, heads, hidden = sizes.width, sizes.heads, sizes.hidden
        self.words = nn.Embedding(VOCABULARY, width)
        self.regions = nn.Linear(FEATURES, width)
        options: dict[str, Any] = {"dropout": 0.1, "batch_first": True}
        self.encoder = nn.TransformerEncoderLayer(width, heads, hidden, **options)
        self.output = nn.Linear(width, VOCABULARY)
        layer = nn.TransformerDecoderLayer(width, heads, hidden, **options)
        size = sum(p.numel() for p in layer.parameters())
        room = parameters - sum(p.numel() for p in self.parameters())
        self.decoder = nn.TransformerDecoder(layer, max(1, round(room / size)))

    def forward(self, batch: Batch) -> Tensor:
        """The sum over all words; an image is encoded once, and its captions are its rows."""
        absent = ~batch.region_mask
        memory = self.encoder(self.regions(batch.regions), src_key_padding_mask=absent)
        images, captions, length = batch.inputs.shape
        x = self.words(batch.inputs.flatten(0, 1)) * math.sqrt(self.words.embedding_dim)
        x = x + positions(0, length, x.shape[-1], x.device)
        states = self.decoder(
            x,
            memory.repeat_interleave(captions, 0),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(length, x.device),
            tgt_is_causal=True,
            memory_key_padding_mask=absent.repeat_interleave(captions, 0),
        )
        return summed_cross_entropy(self.output(states).unflatten(0, (images, captions)), batch)
