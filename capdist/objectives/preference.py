"""Direct preference optimisation (Rafailov et al., NeurIPS 2023) on the policy's own captions.

The policy π samples n captions per image, a reward ranks them, and the best (w) is preferred over
the worst (l). With the reference policy π_ref, whose weights are those that the stage began with,
Eq. 7 is minimised:

    L = −log σ(β [log π(w)/π_ref(w) − log π(l)/π_ref(l)])

The paper's pairs are given, and people ranked them; here they are sampled in every step, and
the reward of self-critical training ranks them, so that both objectives can be compared. An image
whose captions all earn the same has no pair and adds nothing. The loss is a mean over images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from capdist.batch import Batch
from capdist.config.reward import RewardConfig
from capdist.config.stage import TrainingStage
from capdist.losses.self_critical import policy_log_probs
from capdist.models.base import CaptionModel
from capdist.objectives.base import Objective, StageContext, Validator, register
from capdist.objectives.rewards import check_rewards, open_rewards
from capdist.objectives.sampled_captions import (
    CaptionSampler,
    SampledCaptions,
    Submit,
    reward_figures,
)

#: A batch of S captions to the log-probabilities (B, S) that the reference policy gives them.
Reference = Callable[[Batch], Tensor]


class PreferenceStage(TrainingStage):
    """Direct preference optimisation (Rafailov et al. 2023) on captions that the model samples."""

    reads_references: ClassVar[bool] = True

    objective: Literal["dpo"]
    samples: int = Field(5, ge=2, description="n, captions sampled per image.")
    beta: float = Field(0.1, gt=0, description="β, how strongly the reference policy holds.")
    reward: RewardConfig = RewardConfig()

    @property
    def uses_ray(self) -> bool:
        return self.reward.actors > 0


@register("dpo")
class Preference(Objective[PreferenceStage]):
    """−log σ of the preferred caption's margin, summed over images; see the module's head.

    Args:
        model: the policy.
        stage: samples, β.
        max_words: of a sampled caption.
        seed: of the run.
        submit: hands packed captions and references to the reward pool.
        reference: the reference policy.
    """

    Config = PreferenceStage

    model: CaptionModel[Any]

    def __init__(
        self,
        model: CaptionModel[Any],
        stage: PreferenceStage,
        max_words: int,
        seed: int,
        submit: Submit,
        reference: Reference,
    ) -> None:
        super().__init__()
        self.model = model
        self.beta = stage.beta
        self.reference = reference
        self.sampler = CaptionSampler(model, stage.samples, max_words, seed, submit)

    @classmethod
    def preflight(cls, stage: PreferenceStage, context: StageContext) -> None:
        check_rewards(stage.reward, context)

    @classmethod
    @contextmanager
    def build(
        cls, stage: PreferenceStage, context: StageContext
    ) -> Iterator[tuple[Preference, Validator]]:
        model, validator = context.start_model(), context.caption_validator()
        reference = reference_policy(context.start_model().to(context.group.device))
        words, seed = context.config.decoding.max_words, context.config.seed
        with open_rewards(stage.reward, context, model, validator) as pool:
            yield cls(model, stage, words, seed, pool.submit, reference), validator

    def begin_epoch(self, epoch: int) -> None:
        """No dropout: both policies are those that the margins compare."""
        self.eval()

    def prepare(self, batches: Sequence[Batch], step: int, device: torch.device) -> list[Batch]:
        """Sample the captions of a step (from 0) and submit them to the reward pool."""
        return list(self.sampler.sample_step(batches, step, device))

    def weight(self, batch: Batch) -> int:
        """Images: each has one pair at most."""
        return len(batch.keys)

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss; zero for a placeholder batch."""
        assert isinstance(batch, SampledCaptions)
        timings = self.sampler.timings
        if batch.earned is None:
            return 0.0 * policy_log_probs(self.model, batch).sum()
        with timings.time("wait", torch.device("cpu")):
            rewards = batch.rewards(batch.earned)
        timings.rewards.append(rewards)
        with timings.time("loss", batch.regions.device):
            pairs, preferred = choose_pairs(batch, rewards)
            log_ratio = policy_log_probs(self.model, pairs).sum(-1) - self.reference(pairs)
            margin = self.beta * (log_ratio[:, 0] - log_ratio[:, 1])
            return -(functional.logsigmoid(margin) * preferred.to(margin)).sum()

    def sums(self) -> list[float]:
        return self.sampler.timings.sums()

    def figures(self, sums: Sequence[float], world: int) -> dict[str, float]:
        return reward_figures(sums, world)


def choose_pairs(batch: Batch, rewards: Tensor) -> tuple[Batch, Tensor]:
    """The best and the worst caption of every image, and whether the best earned more (B,).

    Args:
        batch: with captions (B, n, L).
        rewards: (B, n).
    """
    best, worst = rewards.argmax(1), rewards.argmin(1)
    images = torch.arange(len(rewards))
    pair = torch.stack([best, worst], 1).to(batch.tokens.device)
    rows = images[:, None].to(batch.tokens.device)
    return replace(batch, tokens=batch.tokens[rows, pair]), (
        rewards[images, best] > rewards[images, worst]
    )


def reference_policy(model: CaptionModel[Any]) -> Reference:
    """The log-probabilities that a frozen model gives captions."""
    model.eval().requires_grad_(False)

    @torch.no_grad()
    def log_probs(batch: Batch) -> Tensor:
        return policy_log_probs(model, batch).sum(-1)

    return log_probs
