"""The rewards of a stage: their document frequency, and how the reward relates to CIDEr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from capdist.config.base import ConfigError
from capdist.config.reward import RewardConfig
from capdist.config.run_config import Config
from capdist.data.dataset import captioned
from capdist.data.training_captions import read_counts
from capdist.distributed.process_group import ProcessGroup
from capdist.inference.validation import CaptionValidator
from capdist.metrics.cider_d import CiderD
from capdist.metrics.coco import ONE_IMAGE, cider
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.models.base import CaptionModel
from capdist.objectives.base import StageContext
from capdist.rewards.base import WeightedSum, build, check_names
from capdist.vocab import EOS, Vocabulary, WordIds
from capdist.workers.base import RewardPool
from capdist.workers.reward_pool import open_pool
from shards.manifest import Manifest

Tokens = Mapping[int, Sequence[Sequence[str]]]

#: A reward that differs from CIDEr by more than this share of it is explained.
FAR = 0.25


def check_rewards(config: RewardConfig, context: StageContext) -> None:
    """Refuse rewards that do not exist, and a training split from which none can be learned.

    Raises:
        ConfigError: naming the option or the shards.
    """
    check_names(config.metrics, f"{context.place}.reward.metrics")
    if sum(shard.samples for shard in context.manifest.split("train")) == 1:
        raise ConfigError(
            f"{context.place}: {context.manifest.location} has one training image, but rewards "
            "need the document frequencies of 2 or more; choose objective xe, or other shards"
        )


@contextmanager
def open_rewards(
    config: RewardConfig,
    context: StageContext,
    model: CaptionModel[Any],
    validator: CaptionValidator,
) -> Iterator[RewardPool]:
    """The pool that rewards a stage's captions; all ranks call it together.

    Where the stage begins, the reward of the model's greedy captions is compared with their CIDEr
    first, and the comparison printed.

    Raises:
        ConfigError, ShardError, ScoreError, PoolError: on the first rank that has a reason.
        OtherRankError: on the others.
    """
    group = context.group
    rewards = group.agree(
        lambda: Rewards.of(context.config, config, context.manifest, context.vocab)
    )
    if not context.resumed:
        captions = validator.captions(model.state_dict())
        if group.first:
            print(rewards.compare(captions), flush=True)
    with rewards.pool(group) as pool:
        yield pool


@dataclass(frozen=True)
class Rewards:
    """A stage's reward, on every rank.

    Args:
        config: of the run.
        metrics: and who computes them.
        vocab: of the model.
        ids: of the words of the training captions.
        val: tokens of the validation captions.
        df: of the training captions with their ends.
        reward: the weighted sum.
    """

    config: Config
    metrics: RewardConfig
    vocab: Vocabulary
    ids: WordIds
    val: Tokens
    df: DocumentFrequency
    reward: WeightedSum

    @classmethod
    def of(
        cls, config: Config, metrics: RewardConfig, manifest: Manifest, vocab: Vocabulary
    ) -> Rewards:
        """The rewards, with the training references' document frequency, kept in the run folder.

        Raises:
            ShardError: if the counts of the training captions can't be read.
            ConfigError: if there is no such reward.
            ScoreError: if the kept document frequency is damaged, or of another vocabulary.
        """
        counts = read_counts(manifest, config.data.copies)
        ids = WordIds(vocab, counts.words)
        kept = Path(config.run) / "document_frequency.npz"
        if kept.exists():
            df = DocumentFrequency.load(kept, vocab.hash)
        else:
            of_words = np.array([ids(word) for word in counts.words], np.int64)
            df = DocumentFrequency.of_ngrams(counts.ngrams(), of_words, counts.images, vocab.hash)
            df.save(kept)
        val = captioned(manifest, config.validation.split).tokens
        return cls(config, metrics, vocab, ids, val, df, build(metrics.metrics, vocab, df))

    def pool(self, group: ProcessGroup) -> RewardPool:
        """The pool that computes the rewards of this rank's captions; all ranks open it together.

        Raises:
            PoolError, OtherRankError: if Ray does not answer.
        """

        def say(line: str) -> None:
            print(f"rank {group.ranks.rank}: {line}", flush=True)

        return open_pool(self.reward, self.metrics, self.config.ray, say, group)

    def compare(self, captions: Mapping[int, Sequence[str]]) -> str:
        """CIDEr-D of greedy validation captions, by what distinguishes reward and evaluation.

        Both are CIDEr-D. The evaluation takes document frequencies from the split that it scores,
        and reads no end tokens; the reward takes the training set's, and reads them.
        """
        hypotheses = {image: [list(words)] for image, words in captions.items()}
        score = {
            (end, source): self._cider_d(hypotheses, end=end, source=source)
            for end in (False, True)
            for source in ("val", "train")
        }
        reward = score[True, "train"]
        earn = f"rewards: {self.reward.signature}\ngreedy validation captions earn {reward:.3f}"
        found = cider({image: self.val[image] for image in hypotheses}, captions)
        if found is None:
            return f"{earn}; CIDEr: {ONE_IMAGE}"
        by_words = found / 100
        lines = [
            f"{earn}; their CIDEr is {by_words:.3f}. CIDEr-D",
            "                                  without end token   with it",
            f"  document frequency of val        {score[False, 'val']:17.3f}"
            f"   {score[True, 'val']:7.3f}",
            f"  document frequency of train      {score[False, 'train']:17.3f}   {reward:7.3f}",
        ]
        if abs(score[False, "val"] - by_words) > 1e-6:
            lines.append(
                f"warning: on ids it is {score[False, 'val']:.6f}, on words {by_words:.6f}: "
                "captions or references lose words on the way to ids"
            )
        if abs(reward - by_words) > FAR * by_words:
            frequency = abs(score[False, "train"] - score[False, "val"])
            ending = abs(reward - score[False, "train"])
            cause = "the end token" if ending > frequency else "the document frequency"
            lines.append(f"warning: reward and CIDEr are far apart, most of it by {cause}")
        return "\n".join(lines)

    def _cider_d(self, hypotheses: Tokens, *, end: bool, source: str) -> float:
        words = (word for image in hypotheses for caption in self.val[image] for word in caption)
        ids = self.ids.extended(words)
        references = {
            image: [ids.encode(caption, end=end) for caption in self.val[image]]
            for image in hypotheses
        }
        captions = [ids.encode(caption, end=end) for (caption,) in hypotheses.values()]
        df = (self.df if end else self.df.without(EOS)) if source == "train" else None
        return float(CiderD(references, df=df).score(list(hypotheses), captions).mean())
