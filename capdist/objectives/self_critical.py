"""The self-critical stage: captions are drawn, scored elsewhere, and reinforced.

Nothing is updated between drawing a step's captions and its gradient: the policy that is improved
is the one that drew. Dropout is off in both, for the same reason.

While rewards are computed, the next micro-batch is drawn, and then the log-probabilities of the
first are; only the last product of its loss waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from capdist.batch import Batch
from capdist.config.decoding import DecodingConfig, SamplingConfig
from capdist.config.stage import ScstStage
from capdist.decoding.beam import beam_search
from capdist.decoding.sampling import sample_from
from capdist.losses.self_critical import leave_one_out, policy, self_critical
from capdist.models.base import CaptionModel
from capdist.objectives.base import Objective
from capdist.vocab import BOS, PAD
from capdist.workers.base import Pending

Submit = Callable[[NDArray[np.int64]], Pending]


@dataclass(frozen=True)
class SampledCaptions(Batch):
    """Images with the n captions that the policy drew of each, and what they will have earned."""

    earned: Pending | None = None
    baseline: Pending | None = None


@dataclass
class StepTimings:
    """What a step did: its rewards, and the seconds that went into each part of it."""

    rewards: list[Tensor] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, part: str, device: torch.device) -> Iterator[None]:
        """Seconds of a part of the step; a GPU ends it first."""
        started = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent = time.perf_counter() - started
        self.seconds[part] = self.seconds.get(part, 0.0) + spent


class SelfCritical(Objective):
    """−Σ (r − b) log π over captions that the model drew in `prepare`.

    Args:
        model: the policy.
        stage: samples, baseline.
        max_words: of a drawn caption.
        seed: of the run.
        submit: hands packed captions (N, 1 + L), image id and tokens, to whoever scores them.
    """

    model: CaptionModel[Any]

    def __init__(
        self, model: CaptionModel[Any], stage: ScstStage, max_words: int, seed: int, submit: Submit
    ) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.seed = seed
        self.submit = submit
        self.sampling = SamplingConfig(samples=stage.samples, max_words=max_words)
        self.greedy = DecodingConfig(beam=1, max_words=max_words)
        self.tally = StepTimings()

    def begin_epoch(self, epoch: int) -> None:
        """No dropout: the gradient is that of the policy that drew."""
        self.eval()

    def prepare(self, batches: Sequence[Batch], step: int, device: torch.device) -> list[Batch]:
        """Draw the captions of a step (from 0), and have them scored."""
        self.tally = StepTimings()
        return [self.roll_out(batch.to(device), step) for batch in batches]

    def roll_out(self, batch: Batch, step: int) -> SampledCaptions:
        """N captions of every image, the same for any split of the step's images."""
        fields = {name: value for name, value in vars(batch).items() if name != "tokens"}
        if not batch.keys:  # It stands in for images that a rank lacks.
            return SampledCaptions(tokens=torch.full((1, self.stage.samples, 2), PAD), **fields)
        device = batch.regions.device
        with torch.inference_mode():
            with self.tally.time("encode", device):
                memory = self.model.encode(batch)
            with self.tally.time("sample", device):
                seed = (self.seed << 32) + step
                drawn = sample_from(self.model, memory, batch, self.sampling, seed).tokens
        earned, baseline = self.score(batch, drawn), None
        if self.stage.baseline == "greedy":
            with self.tally.time("greedy", device):
                best = beam_search(self.model, batch, self.greedy).tokens
            baseline = self.score(batch, best)
        # Captions end where the longest does, as those of a training batch do.
        longest = int((drawn != PAD).sum(-1).max())
        tokens = functional.pad(drawn[..., :longest].clone(), (1, 0), value=BOS)
        return SampledCaptions(tokens=tokens, earned=earned, baseline=baseline, **fields)

    def score(self, batch: Batch, tokens: Tensor) -> Pending:
        """Hand captions (B, n, L) over."""
        with self.tally.time("copy", batch.regions.device):
            images = batch.image_ids.cpu()[:, None, None].expand(-1, tokens.shape[1], 1)
            packed = torch.cat([images, tokens.cpu()], -1).flatten(0, 1).numpy()
        with self.tally.time("submit", torch.device("cpu")):
            return self.submit(packed)

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss; zero for a batch that stands in."""
        assert isinstance(batch, SampledCaptions)
        with self.tally.time("loss", batch.regions.device):
            log_probs = policy(self.model, batch)
        if batch.earned is None:
            return 0.0 * log_probs.sum()
        with self.tally.time("wait", torch.device("cpu")):
            rewards = self.rewards(batch.earned, batch)
            if batch.baseline is None:
                baseline = leave_one_out(rewards)
            else:
                baseline = self.rewards(batch.baseline, batch)
        self.tally.rewards.append(rewards)
        advantage = (rewards - baseline).to(log_probs)
        return self_critical(log_probs, advantage)

    def rewards(self, pending: Pending, batch: Batch) -> Tensor:
        """(B, n) fp64, on the CPU."""
        return torch.from_numpy(pending.result()).unflatten(0, (len(batch.keys), -1))

    def sums(self) -> list[float]:
        """Of the step on this rank: captions, rewards, their squares, seconds of each part."""
        rewards = torch.cat([part.flatten() for part in self.tally.rewards] or [torch.zeros(0)])
        seconds = [self.tally.seconds.get(part, 0.0) for part in PARTS]
        return [len(rewards), float(rewards.sum()), float((rewards**2).sum()), *seconds]

    def figures(self, sums: Sequence[float], world: int) -> dict[str, float]:
        """What the metrics log keeps of a step, from the sums over all ranks."""
        count, total, squares, *seconds = sums
        count = max(count, 1.0)  # a step may have lost all of its samples
        mean = total / count
        return {
            "reward": mean,
            "reward_std": math.sqrt(max(squares / count - mean**2, 0.0)),
            **{f"{part}_s": spent / world for part, spent in zip(PARTS, seconds, strict=True)},
        }


#: Parts of a step that are timed. Rewards are what is submitted and waited for; what is left of a
#: step is the gradient and the update.
PARTS = ("encode", "sample", "greedy", "copy", "submit", "wait", "loss")
