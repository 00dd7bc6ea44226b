"""The CIDEr-D reward beside pycocoevalcap's Cider on one core, and in pools of Ray actors.

All score the same made-up captions, five references an image. Each gets its tokens ready-made:
the reward packed arrays of ids, pycocoevalcap strings of words.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.corpus import REFERENCES, VOCABULARY, Corpus, make_corpus
from benchmarks.timing import Contestant, Timing, interleave
from capdist.config.base import ConfigError
from capdist.config.run_config import RayConfig
from capdist.config.stage import RewardConfig
from capdist.metrics.captions import Floats, Ints, References
from capdist.metrics.cider_d import CiderD
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.reporting.table import format_markdown, format_table
from capdist.rewards.base import build
from capdist.vocab import SPECIALS, Vocabulary
from capdist.workers.base import Reward, RewardPool
from capdist.workers.reward_pool import open_pool

#: Packed captions of one call, and passes of a round: pycocoevalcap takes about as long for one.
CALL, PASSES, ROUNDS = 250, 200, 7
#: The same for a pool, which gets so many at once: calls of training's size, and of one where
#: handing over counts for little.
POOL_CALLS = ((250, 40), (20_000, 200))
COLUMNS = ("captions/s", "slowest", "fastest", "times the peer")

OURS, OURS_WHOLE = "capdist", "capdist, built too"
PEER, PEER_WHOLE = "pycocoevalcap", "pycocoevalcap, df counted too"


@dataclass(frozen=True)
class Figures:
    """What was measured.

    ``captions``: scored in a round, by contestant. ``difference``: the largest between the scores
    of capdist and of pycocoevalcap for the same caption. ``load``: programs that ran on average
    in the last five minutes, this one among them.
    """

    images: int
    captions: dict[str, int]
    timings: dict[str, Timing]
    difference: float
    load: float

    @property
    def speeds(self) -> dict[str, dict[str, float]]:
        """Captions/s of each contestant's median, slowest and fastest round."""
        return {
            name: {
                "median": self.captions[name] / timing.median,
                "slowest": self.captions[name] / timing.spread[1],
                "fastest": self.captions[name] / timing.spread[0],
            }
            for name, timing in self.timings.items()
        }

    def to_json(self) -> dict[str, Any]:
        """All figures, and the ratios that count."""
        speeds = self.speeds
        median = {name: found["median"] for name, found in speeds.items()}
        return {
            "images": self.images,
            "references": REFERENCES,
            "captions_per_s": speeds,
            "ratio_vs_pycocoevalcap": median[OURS] / median[PEER],
            "ratio_vs_pycocoevalcap_whole": median[OURS_WHOLE] / median[PEER_WHOLE],
            "pool_scaling": {
                actors: median[pool_name(actors, POOL_CALLS[-1][0])]
                / median[pool_name(1, POOL_CALLS[-1][0])]
                for actors in pool_sizes()
            },
            "largest_difference": self.difference,
            "load": self.load,
        }

    @property
    def rows(self) -> dict[str, dict[str, float]]:
        """The same as a table's."""
        speeds = self.speeds
        return {
            name: {
                "captions/s": found["median"],
                "slowest": found["slowest"],
                "fastest": found["fastest"],
                "times the peer": found["median"] / speeds[PEER]["median"],
            }
            for name, found in speeds.items()
        }

    def table(self) -> str:
        """For a terminal."""
        return format_table(self.rows, COLUMNS)

    def page(self, command: str) -> str:
        """As Markdown, with what is counted and the command that measures it."""
        return (
            "# CIDEr-D as a reward\n\n"
            f"One caption of each of {self.images} images against {REFERENCES} references, end "
            f"tokens included, made up of {VOCABULARY} words by Zipf's law. All but the pools use "
            f"one core. Median, slowest and fastest of {ROUNDS} rounds in which all took turns, on "
            f"a machine of {os.cpu_count()} cores with a load of {self.load:.1f}: if that is well "
            "above 1, other programs ran beside them, and the figures should be taken again. With "
            "the same document frequency no score differs by more than "
            f"{self.difference:.1e}.\n\n"
            f"{format_markdown(self.rows, COLUMNS)}\n\n"
            "What is counted, besides scoring:\n\n"
            f"- **{OURS}**: checking and unpacking, {CALL} packed captions a call. Document "
            "frequency and the references' tf-idf vectors are ready, as in training.\n"
            f"- **{PEER}**, the peer: n-grams of captions and references, which it takes at every "
            "scoring. Its document frequency is ready, as in training, though its `Cider` counts "
            "it at every call; strings are ready too.\n"
            f"- **{OURS_WHOLE}**: everything from lists of ids on: document frequency, tf-idf "
            "vectors.\n"
            f"- **{PEER_WHOLE}**: its `Cider().compute_score` as it is, from strings on.\n"
            "- **pool**: what capdist does, by so many Ray actors, with packing, pipe and Ray. "
            "The calls of a round are handed over at once.\n\n"
            f"```\n{command}\n```\n"
        )


def measure(images: int) -> Figures:
    """All contestants in turn on captions of so many images.

    Raises:
        ConfigError: if there is no image.
    """
    if images < 1:
        raise ConfigError(f"--images: expected 1 or more, got {images}")
    corpus = make_corpus(images)
    reward = make_reward(corpus)
    ours, theirs = ours_whole(corpus), peer_whole(corpus)
    difference = float(np.abs(ours() - theirs()).max())
    contestants = {
        OURS: Contestant(PASSES * images, ours_ready(reward, corpus)),
        OURS_WHOLE: Contestant(images, ours),
        PEER: Contestant(images, peer_ready(corpus)),
        PEER_WHOLE: Contestant(images, theirs),
    }
    with ExitStack() as stack:
        for actors in pool_sizes():
            rewards = RewardConfig(actors=actors)
            pool = stack.enter_context(open_pool(reward, rewards, RayConfig(), tqdm.write))
            for size, passes in POOL_CALLS:
                run = pooled(pool, calls(corpus, size, passes))
                contestants[pool_name(actors, size)] = Contestant(passes * images, run)
        timings = interleave({name: it.run for name, it in contestants.items()}, ROUNDS)
    captions = {name: contestant.items for name, contestant in contestants.items()}
    return Figures(images, captions, timings, difference, os.getloadavg()[1])


def pool_sizes() -> list[int]:
    """1, 2, 4, ... actors, at most one a core."""
    return [2**i for i in range((os.cpu_count() or 1).bit_length())]


def pool_name(actors: int, size: int) -> str:
    """Of the row."""
    return f"pool of {actors}, calls of {size}"


def make_reward(corpus: Corpus) -> Reward:
    """As training has it."""
    references = References.of(corpus.references)
    vocabulary = Vocabulary([f"w{i}" for i in range(len(SPECIALS), VOCABULARY)])
    df = DocumentFrequency.count(references, vocabulary.hash)
    return build({"cider_d": 1.0}, references, vocabulary, df)


def calls(corpus: Corpus, size: int, passes: int) -> list[Ints]:
    """The captions ``passes`` times over, ``size`` a call."""
    packed = np.tile(corpus.packed, (passes, 1))
    return np.split(packed, range(size, len(packed), size))


def ours_ready(reward: Reward, corpus: Corpus) -> Callable[[], None]:
    """The reward as training calls it in-process."""
    made = calls(corpus, CALL, PASSES)

    def score() -> None:
        for packed in made:
            reward(packed)

    return score


def pooled(pool: RewardPool, made: list[Ints]) -> Callable[[], None]:
    """The same by a pool: all calls are on their way before the first answer is asked for."""

    def score() -> None:
        for pending in [pool.submit(packed) for packed in made]:
            pending.result()

    return score


def ours_whole(corpus: Corpus) -> Callable[[], Floats]:
    """From references on."""
    images, hypotheses = list(corpus.references), corpus.hypotheses
    return lambda: CiderD(corpus.references).score(images, hypotheses)


def peer_ready(corpus: Corpus) -> Callable[[], None]:
    """Its scorer with a document frequency that was counted before."""
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    references, captions = _strings(corpus)

    def cooked() -> Any:
        scorer = CiderScorer()
        for image, texts in references.items():
            scorer += (captions[image][0], texts)
        return scorer

    counted = cooked()
    counted.compute_doc_freq()

    def score() -> None:
        scorer = cooked()
        scorer.document_frequency = counted.document_frequency
        scorer.compute_cider()

    return score


def peer_whole(corpus: Corpus) -> Callable[[], Floats]:
    """Its metric as it is called."""
    from pycocoevalcap.cider.cider import Cider

    references, captions = _strings(corpus)
    return lambda: Cider().compute_score(references, captions)[1]


def _strings(corpus: Corpus) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    def text(caption: list[int]) -> str:
        return " ".join(f"w{token}" for token in caption)

    references = {i: [text(c) for c in captions] for i, captions in corpus.references.items()}
    hypotheses = zip(references, corpus.hypotheses, strict=True)
    return references, {image: [text(caption)] for image, caption in hypotheses}
