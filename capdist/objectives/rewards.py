"""The rewards of a stage: training references as ids, and how the reward relates to CIDEr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capdist.config.base import ConfigError
from capdist.config.reward import RewardConfig
from capdist.config.run_config import Config
from capdist.data.dataset import captioned
from capdist.distributed.process_group import ProcessGroup
from capdist.inference.validation import CaptionValidator
from capdist.metrics.cider_d import CiderD
from capdist.metrics.coco import ONE_IMAGE, cider
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.models.base import CaptionModel
from capdist.objectives.base import StageContext
from capdist.rewards.base import WeightedSum, build, check_names
from capdist.vocab import EOS, Vocabulary
from capdist.workers.base import RewardPool
from capdist.workers.reward_pool import open_pool
from shards.manifest import Manifest

Tokens = Mapping[int, Sequence[Sequence[str]]]
Ids = dict[int, list[list[int]]]

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
    with group.agree(lambda: rewards.pool(group)) as pool:
        yield pool


class WordIds:
    """Ids of words; those outside the vocabulary get ids of V or more, each its own.

    So a reference with a rare word scores as it does in words: no two rare words are equal.
    The ids depend on the words alone, not on the order of the images.
    """

    def __init__(self, vocab: Vocabulary) -> None:
        self.vocab = vocab
        self.rare: dict[str, int] = {}

    def __call__(self, word: str) -> int:
        """The word's id; `captions` must have seen a word outside the vocabulary before."""
        return self.vocab.id(word) if word in self.vocab else self.rare[word]

    def captions(self, tokens: Tokens, *, end: bool) -> Ids:
        """Captions by image, with or without their end token; never clipped."""
        ends = [EOS] if end else []
        words = {word for captions in tokens.values() for caption in captions for word in caption}
        for word in sorted(words):
            if word not in self.vocab:
                self.rare.setdefault(word, len(self.vocab) + len(self.rare))
        return {
            image: [[*map(self, caption), *ends] for caption in captions]
            for image, captions in tokens.items()
        }


@dataclass(frozen=True)
class Rewards:
    """A stage's reward, on every rank.

    Args:
        config: of the run.
        metrics: and who computes them.
        vocab: of the model.
        train: tokens of the training captions.
        val: tokens of the validation captions.
        df: of the training captions with their ends.
        reward: the weighted sum.
    """

    config: Config
    metrics: RewardConfig
    vocab: Vocabulary
    train: Tokens
    val: Tokens
    df: DocumentFrequency
    reward: WeightedSum

    @classmethod
    def of(
        cls, config: Config, metrics: RewardConfig, manifest: Manifest, vocab: Vocabulary
    ) -> Rewards:
        """References as ids, and their document frequency, kept in the run folder.

        Raises:
            ShardError: if an image has no captions.
            ConfigError: if there is no such reward.
            ScoreError: if the kept document frequency is damaged, or of another vocabulary.
        """
        train = captioned(manifest, "train").tokens
        val = captioned(manifest, config.validation.split).tokens
        ids = WordIds(vocab).captions(train, end=True)
        kept = Path(config.run) / "document_frequency.npz"
        if kept.exists():
            df = DocumentFrequency.load(kept, vocab.hash)
        else:
            df = DocumentFrequency.count(ids, vocab.hash)
            df.save(kept)
        reward = build(metrics.metrics, ids, vocab, df)
        return cls(config, metrics, vocab, train, val, df, reward)

    def pool(self, group: ProcessGroup) -> RewardPool:
        """The pool that computes the rewards of this rank's captions.

        Raises:
            PoolError: if Ray does not answer.
        """

        def say(line: str) -> None:
            print(f"rank {group.ranks.rank}: {line}", flush=True)

        return open_pool(self.reward, self.metrics, self.config.ray, say)

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
        word_ids = WordIds(self.vocab)
        train = word_ids.captions(self.train, end=end)
        references = word_ids.captions({image: self.val[image] for image in hypotheses}, end=end)
        df = DocumentFrequency.count(train) if source == "train" else None
        captions = [of_image[0] for of_image in word_ids.captions(hypotheses, end=end).values()]
        return float(CiderD(references, df=df).score(list(hypotheses), captions).mean())
