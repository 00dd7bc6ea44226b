"""Captions that the policy samples in each step, and their rewards, for objectives that use both.

Nothing is updated between sampling a step's captions and its gradient: the policy that is improved
is the one that sampled. Dropout is off in both, for the same reason.

While rewards are computed, the captions of the next micro-batch are sampled, and then the
log-probabilities of the first are computed; only the last product of its loss waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from capdist.batch import Batch
from capdist.config.decoding import DecodingConfig, SamplingConfig
from capdist.decoding.beam import beam_search
from capdist.decoding.sampling import sample_captions
from capdist.distributed.part_timer import PartTimer
from capdist.models.base import CaptionModel
from capdist.vocab import BOS, PAD

#: Parts of a step that are timed. Rewards are what is submitted and waited for; what is left of a
#: step is the gradient and the update.
PARTS = ("encode", "sample", "greedy", "copy", "submit", "wait", "loss")


class Pending(Protocol):
    """Rewards that may still be computed."""

    def result(self) -> NDArray[np.float64]:
        """(N,) rewards; waits for them."""


#: Hands packed captions (N, 1 + L), image id and tokens, and references (M, 1 + L), packed in the
#: same way but padded with -1, to the reward pool.
Submit = Callable[[NDArray[np.int64], NDArray[np.int64]], Pending]


@dataclass(frozen=True)
class SampledCaptions(Batch):
    """Images with the n captions that the policy sampled for each, and their pending rewards."""

    earned: Pending | None = None
    baseline: Pending | None = None

    def rewards(self, pending: Pending) -> Tensor:
        """(B, n) fp64, on the CPU."""
        return torch.from_numpy(pending.result()).unflatten(0, (len(self.keys), -1))


@dataclass
class StepTimings(PartTimer):
    """The rewards of a step, and the seconds of each of its parts."""

    rewards: list[Tensor] = field(default_factory=list)

    def sums(self) -> list[float]:
        """Of this rank: number of captions, Σ reward, Σ reward², seconds of each part."""
        rewards = torch.cat([part.flatten() for part in self.rewards] or [torch.zeros(0)])
        seconds = [self.seconds.get(part, 0.0) for part in PARTS]
        return [len(rewards), float(rewards.sum()), float((rewards**2).sum()), *seconds]


def reward_figures(sums: Sequence[float], world: int) -> dict[str, float]:
    """Mean and deviation of a step's rewards, and mean seconds of its parts, from all ranks."""
    count, total, squares, *seconds = sums
    count = max(count, 1.0)  # a step may have lost all of its samples
    mean = total / count
    return {
        "reward": mean,
        "reward_std": math.sqrt(max(squares / count - mean**2, 0.0)),
        **{f"{part}_s": spent / world for part, spent in zip(PARTS, seconds, strict=True)},
    }


class CaptionSampler:
    """Samples captions from the policy and submits them to the reward pool.

    Args:
        model: the policy.
        samples: n, captions per image.
        max_words: of a caption.
        seed: of the run.
        greedy: whether the greedy caption is rewarded too, as a baseline.
        submit: hands packed captions and references to the reward pool.
    """

    def __init__(
        self,
        model: CaptionModel[Any],
        samples: int,
        max_words: int,
        seed: int,
        submit: Submit,
        *,
        greedy: bool = False,
    ) -> None:
        self._policy = (model,)  # a tuple, so that no module registers the model twice
        self._sampling = SamplingConfig(samples=samples, max_words=max_words)
        self._greedy = DecodingConfig(beam=1, max_words=max_words) if greedy else None
        self._seed, self._submit = seed, submit
        self.timings = StepTimings()

    def sample_step(
        self, batches: Sequence[Batch], step: int, device: torch.device
    ) -> list[SampledCaptions]:
        """The captions of a step (from 0), submitted."""
        self.timings = StepTimings()
        return [self._sample(batch.to(device), step) for batch in batches]

    def _sample(self, batch: Batch, step: int) -> SampledCaptions:
        """The n captions of every image, the same for any split of the step's images."""
        (model,) = self._policy
        given = {field.name: getattr(batch, field.name) for field in fields(Batch)}
        del given["tokens"]
        if not batch.keys:  # a placeholder, where a rank has no images
            return SampledCaptions(tokens=torch.full((1, self._sampling.samples, 2), PAD), **given)
        device = batch.regions.device
        with torch.inference_mode():
            with self.timings.time("encode", device):
                memory = model.encode(batch)
            with self.timings.time("sample", device):
                seed = (self._seed << 32) + step
                sampled = sample_captions(model, memory, batch, self._sampling, seed)
        earned, baseline = self._score(batch, sampled), None
        if self._greedy:
            with self.timings.time("greedy", device):
                best = beam_search(model, batch, self._greedy).tokens
            baseline = self._score(batch, best)
        # After max_words words the end is certain, so it has no part in the policy.
        drawn = sampled[..., : self._sampling.max_words]
        # Captions end where the longest does, as those of a training batch do.
        longest = int((drawn != PAD).sum(-1).max())
        tokens = functional.pad(drawn[..., :longest].clone(), (1, 0), value=BOS)
        return SampledCaptions(tokens=tokens, earned=earned, baseline=baseline, **given)

    def _score(self, batch: Batch, tokens: Tensor) -> Pending:
        """Submit captions (B, n, L)."""
        with self.timings.time("copy", batch.regions.device):
            images = batch.image_ids.cpu()[:, None, None].expand(-1, tokens.shape[1], 1)
            packed = torch.cat([images, tokens.cpu()], -1).flatten(0, 1).numpy()
        with self.timings.time("submit", torch.device("cpu")):
            return self._submit(packed, pack_references(batch))


def pack_references(batch: Batch) -> NDArray[np.int64]:
    """(M, 1 + L) image id and tokens of every reference of a batch, padded with -1.

    An image that a batch has twice, as sets may be repeated, has its references once.
    """
    assert batch.references is not None
    images, first = np.unique(batch.image_ids.cpu().numpy(), return_index=True)
    references = batch.references[first].astype(np.int64)
    of_rows = np.broadcast_to(images[:, None, None], (*references.shape[:2], 1))
    packed = np.concatenate([of_rows, references], -1)
    return packed[references[..., 0] >= 0]
