"""Rewards of a stage: the training references as ids, and how they relate to the evaluation's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capdist.config.run_config import Config
from capdist.config.stage import ScstStage
from capdist.data.dataset import captioned
from capdist.distributed.process_group import ProcessGroup
from capdist.metrics.cider_d import CiderD
from capdist.metrics.coco import cider
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.rewards.base import WeightedSum, build
from capdist.vocab import EOS, Vocabulary
from capdist.workers.base import RewardPool
from capdist.workers.reward_pool import open_pool
from shards.manifest import Manifest

Tokens = Mapping[int, Sequence[Sequence[str]]]
Ids = dict[int, list[list[int]]]

#: A reward this far from the CIDEr, as a share of it, wants a word of explanation.
FAR = 0.25


class WordIds:
    """Ids of words; those outside the vocabulary get ids behind it, each its own.

    So a reference with a rare word scores as it does in words: no two rare words are the same.
    The ids depend on the words alone, not on the order of the images.
    """

    def __init__(self, vocab: Vocabulary) -> None:
        self.vocab = vocab
        self.rare: dict[str, int] = {}

    def __call__(self, word: str) -> int:
        """The word's id; one outside the vocabulary must have been in `captions` before."""
        return self.vocab.id(word) if word in self.vocab else self.rare[word]

    def captions(self, tokens: Tokens, *, end: bool) -> Ids:
        """Captions by image, with their end token or without; never clipped."""
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
        stage: that is rewarded.
        vocab: of the model.
        train: tokens of the training captions.
        val: tokens of the validation captions.
        df: of the training captions with their ends.
        reward: the weighted sum.
    """

    config: Config
    stage: ScstStage
    vocab: Vocabulary
    train: Tokens
    val: Tokens
    df: DocumentFrequency
    reward: WeightedSum

    @classmethod
    def of(cls, config: Config, stage: ScstStage, manifest: Manifest, vocab: Vocabulary) -> Rewards:
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
        reward = build(stage.reward.metrics, ids, vocab, df)
        return cls(config, stage, vocab, train, val, df, reward)

    def pool(self, job: ProcessGroup) -> RewardPool:
        """Whoever computes the rewards of this rank's captions.

        Raises:
            PoolError: if Ray does not answer.
        """

        def say(line: str) -> None:
            print(f"rank {job.ranks.rank}: {line}", flush=True)

        return open_pool(self.reward, self.stage.reward, self.config.ray, say)

    def compare(self, captions: Mapping[int, Sequence[str]]) -> str:
        """CIDEr-D of greedy validation captions, by what sets the reward and the evaluation apart.

        Both are CIDEr-D. The evaluation takes document frequencies from the split that it scores,
        and sees no end tokens; the reward takes the training set's, and sees them.
        """
        said = {image: [list(words)] for image, words in captions.items()}
        score = {
            (end, source): self._cider_d(said, end=end, source=source)
            for end in (False, True)
            for source in ("val", "train")
        }
        reward = score[True, "train"]
        by_words = cider({image: self.val[image] for image in said}, captions) / 100
        lines = [
            f"rewards: {self.reward.signature}",
            f"greedy validation captions earn {reward:.3f}; their CIDEr is {by_words:.3f}. CIDEr-D",
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

    def _cider_d(self, said: Tokens, *, end: bool, source: str) -> float:
        word_ids = WordIds(self.vocab)
        train = word_ids.captions(self.train, end=end)
        references = word_ids.captions({image: self.val[image] for image in said}, end=end)
        df = DocumentFrequency.count(train) if source == "train" else None
        hypotheses = [captions[0] for captions in word_ids.captions(said, end=end).values()]
        return float(CiderD(references, df=df).score(list(said), hypotheses).mean())
