"""Self-critical training (Rennie et al., CVPR 2017): rewards reinforce sampled captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from capdist.batch import Batch
from capdist.config.base import Positive
from capdist.config.reward import RewardConfig
from capdist.config.stage import TrainingStage
from capdist.losses.self_critical import leave_one_out_baseline, self_critical
from capdist.models.base import CaptionModel
from capdist.objectives.base import Objective, StageContext, Validator, register
from capdist.objectives.rewards import check_rewards, open_rewards
from capdist.objectives.sampled_captions import (
    CaptionSampler,
    SampledCaptions,
    Submit,
    reward_figures,
)


class SelfCriticalStage(TrainingStage):
    """Self-critical training (Rennie et al. 2017) on captions that the model samples itself."""

    reads_references: ClassVar[bool] = True

    objective: Literal["scst"]
    samples: Positive = Field(5, description="n, captions sampled per image.")
    baseline: Literal["greedy", "leave_one_out"] = Field(
        "leave_one_out", description="The greedy caption's reward, or the other samples' mean."
    )
    reward: RewardConfig = RewardConfig()

    @model_validator(mode="after")
    def _enough_samples(self) -> SelfCriticalStage:
        if self.baseline == "leave_one_out" and self.samples == 1:
            raise ValueError(
                "baseline leave_one_out needs samples of 2 or more; raise samples, or choose "
                "baseline greedy"
            )
        return self

    @property
    def uses_ray(self) -> bool:
        return self.reward.actors > 0


@register("scst")
class SelfCritical(Objective[SelfCriticalStage]):
    """−Σ (r − b) log π over captions that the model sampled in `prepare`.

    Args:
        model: the policy.
        stage: samples, baseline.
        max_words: of a sampled caption.
        seed: of the run.
        submit: hands packed captions and references to the reward pool.
    """

    Config = SelfCriticalStage

    model: CaptionModel[Any]

    def __init__(
        self,
        model: CaptionModel[Any],
        stage: SelfCriticalStage,
        max_words: int,
        seed: int,
        submit: Submit,
    ) -> None:
        super().__init__()
        self.model = model
        greedy = stage.baseline == "greedy"
        self.sampler = CaptionSampler(model, stage.samples, max_words, seed, submit, greedy=greedy)

    @classmethod
    def preflight(cls, stage: SelfCriticalStage, context: StageContext) -> None:
        check_rewards(stage.reward, context)

    @classmethod
    @contextmanager
    def build(
        cls, stage: SelfCriticalStage, context: StageContext
    ) -> Iterator[tuple[SelfCritical, Validator]]:
        model, validator = context.start_model(), context.caption_validator()
        words, seed = context.config.decoding.max_words, context.config.seed
        with open_rewards(stage.reward, context, model, validator) as pool:
            yield cls(model, stage, words, seed, pool.submit), validator

    def begin_epoch(self, epoch: int) -> None:
        """No dropout: the gradient is that of the policy that sampled."""
        self.eval()

    def prepare(self, batches: Sequence[Batch], step: int, device: torch.device) -> list[Batch]:
        """Sample the captions of a step (from 0) and submit them to the reward pool."""
        return list(self.sampler.sample_step(batches, step, device))

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss; zero for a placeholder batch."""
        assert isinstance(batch, SampledCaptions)
        timings = self.sampler.timings
        with timings.time("loss", batch.regions.device):
            decoded = self.model.decode_words(self.model.encode(batch), batch.words)
        if batch.earned is None:
            nothing = torch.zeros(batch.tokens.shape[:2], device=decoded.device)
            return self_critical(self.model, decoded, batch, nothing)
        with timings.time("wait", torch.device("cpu")):
            rewards = batch.rewards(batch.earned)
            if batch.baseline is None:
                baseline = leave_one_out_baseline(rewards)
            else:
                baseline = batch.rewards(batch.baseline)
        timings.rewards.append(rewards)
        advantage = (rewards - baseline).to(decoded.device)
        with timings.time("loss", batch.regions.device):
            return self_critical(self.model, decoded, batch, advantage)

    def sums(self) -> list[float]:
        return self.sampler.timings.sums()

    def figures(self, sums: Sequence[float], world: int) -> dict[str, float]:
        return reward_figures(sums, world)
