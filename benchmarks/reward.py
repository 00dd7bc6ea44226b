"""The CIDEr-D reward compared with pycocoevalcap's Cider on one core, and in pools of Ray actors.

All score the same synthetic captions with five references per image. Each gets its own input
format: the reward packed arrays of ids, pycocoevalcap strings of words.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.corpus import REFERENCES, VOCABULARY, Corpus, make_corpus
from benchmarks.timing import Timing, interleave
from capdist.config.base import ConfigError
from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.metrics.captions import Floats, Ints, References
from capdist.metrics.cider_d import CiderD
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.reporting.table import format_markdown, format_table
from capdist.rewards.base import build
from capdist.vocab import SPECIALS, Vocabulary
from capdist.workers.base import Reward, RewardPool
from capdist.workers.reward_pool import open_pool

#: Packed captions per call, and passes per round; pycocoevalcap takes as long for one pass.
CALL, PASSES, ROUNDS = 250, 200, 7
#: The same for pools: calls as large as in training, and so large that sending costs little.
POOL_CALLS = ((250, 40), (20_000, 200))
COLUMNS = ("captions/s", "slowest", "fastest", "times the peer")

OURS, OURS_WHOLE = "capdist", "capdist, with preparation"
PEER, PEER_WHOLE = "pycocoevalcap", "pycocoevalcap, df counted too"


@dataclass(frozen=True)
class Figures:
    """Times of scoring.

    ``captions``: number scored in a round, by program. ``difference``: the largest between the
    scores of capdist and of pycocoevalcap for the same caption. ``load``: load average of the last
    five minutes.
    """

    images: int
    captions: dict[str, int]
    timings: dict[str, Timing]
    difference: float
    load: float

    @property
    def speeds(self) -> dict[str, dict[str, float]]:
        """Captions/s of the median, slowest and fastest round of each program."""
        return {
            name: {
                "median": self.captions[name] / timing.median,
                "slowest": self.captions[name] / timing.spread[1],
                "fastest": self.captions[name] / timing.spread[0],
            }
            for name, timing in self.timings.items()
        }

    def to_json(self) -> dict[str, Any]:
        speeds = self.speeds
        median = {name: speed["median"] for name, speed in speeds.items()}
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
        speeds = self.speeds
        return {
            name: {
                "captions/s": speed["median"],
                "slowest": speed["slowest"],
                "fastest": speed["fastest"],
                "times the peer": speed["median"] / speeds[PEER]["median"],
            }
            for name, speed in speeds.items()
        }

    def table(self) -> str:
        return format_table(self.rows, COLUMNS)

    def page(self, command: str) -> str:
        return (
            "# CIDEr-D as a reward\n\n"
            f"One caption of each of {self.images} images against {REFERENCES} references, "
            f"including end tokens, generated from {VOCABULARY} words by Zipf's law. All except "
            f"the pools use one core. Median, slowest and fastest of {ROUNDS} interleaved rounds, "
            f"on a machine of {os.cpu_count()} cores with a load of {self.load:.1f}: if that is "
            "well above 1, other programs were running, and the measurement should be repeated. "
            "With the same document frequency no score differs by more than "
            f"{self.difference:.1e}.\n\n"
            f"{format_markdown(self.rows, COLUMNS)}\n\n"
            "Included, besides scoring:\n\n"
            f"- **{OURS}**: checking and unpacking, {CALL} packed captions per call. The document "
            "frequency and the references' tf-idf vectors exist already, as in training.\n"
            f"- **{PEER}**, the peer: n-grams of captions and references, which it computes at "
            "every call. Its document frequency exists already, as in training, although its "
            "`Cider` counts it at every call; so do the strings.\n"
            f"- **{OURS_WHOLE}**: document frequency and tf-idf vectors, from lists of ids.\n"
            f"- **{PEER_WHOLE}**: all of its `Cider().compute_score`, from strings.\n"
            "- **pool**: the work of capdist by Ray actors, with packing, the pipe and Ray. All "
            "calls of a round are submitted at once.\n\n"
            f"```\n{command}\n```\n"
        )


def measure(images: int) -> Figures:
    """Time all programs in turn on captions of ``images`` images.

    Raises:
        ConfigError: if there is no image.
    """
    if images < 1:
        raise ConfigError(f"--images: expected 1 or more, got {images}")
    corpus = make_corpus(images)
    reward = make_reward(corpus)
    ours, theirs = ours_whole(corpus), peer_whole(corpus)
    difference = float(np.abs(ours() - theirs()).max())
    programs = {
        OURS: ours_prepared(reward, corpus),
        OURS_WHOLE: ours,
        PEER: peer_prepared(corpus),
        PEER_WHOLE: theirs,
    }
    captions = {OURS: PASSES * images, OURS_WHOLE: images, PEER: images, PEER_WHOLE: images}
    with ExitStack() as stack:
        for actors in pool_sizes():
            rewards = RewardConfig(actors=actors)
            pool = stack.enter_context(open_pool(reward, rewards, RayConfig(), print))
            for size, passes in POOL_CALLS:
                name = pool_name(actors, size)
                programs[name] = pooled(pool, calls(corpus, size, passes))
                captions[name] = passes * images
        timings = interleave(programs, ROUNDS)
    return Figures(images, captions, timings, difference, os.getloadavg()[1])


def pool_sizes() -> list[int]:
    """1, 2, 4, ... actors, at most one per core."""
    return [2**i for i in range((os.cpu_count() or 1).bit_length())]


def pool_name(actors: int, size: int) -> str:
    return f"pool of {actors}, calls of {size}"


def make_reward(corpus: Corpus) -> Reward:
    """The CIDEr-D reward as in training."""
    references = References.of(corpus.references)
    vocabulary = Vocabulary([f"w{i}" for i in range(len(SPECIALS), VOCABULARY)])
    df = DocumentFrequency.count(references, vocabulary.hash)
    return build({"cider_d": 1.0}, vocabulary, df)


def calls(corpus: Corpus, size: int, passes: int) -> list[tuple[Ints, Ints]]:
    """All captions ``passes`` times, split into calls of ``size``, with their references."""
    packed, references = np.tile(corpus.packed, (passes, 1)), corpus.packed_references
    parts = np.split(packed, range(size, len(packed), size))
    return [(part, references[np.isin(references[:, 0], part[:, 0])]) for part in parts]


def ours_prepared(reward: Reward, corpus: Corpus) -> Callable[[], None]:
    """The reward as training calls it in its own process."""
    packed_calls = calls(corpus, CALL, PASSES)

    def score() -> None:
        for call in packed_calls:
            reward(*call)

    return score


def pooled(pool: RewardPool, packed_calls: list[tuple[Ints, Ints]]) -> Callable[[], None]:
    """The same by a pool; all calls are submitted before the first result is awaited."""

    def score() -> None:
        for pending in [pool.submit(*call) for call in packed_calls]:
            pending.result()

    return score


def ours_whole(corpus: Corpus) -> Callable[[], Floats]:
    """CIDEr-D from lists of ids, with document frequency and tf-idf vectors."""
    images, hypotheses = list(corpus.references), corpus.hypotheses
    return lambda: CiderD(corpus.references).score(images, hypotheses)


def peer_prepared(corpus: Corpus) -> Callable[[], None]:
    """The scorer of pycocoevalcap with a given document frequency."""
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    references, captions = _strings(corpus)

    def new_scorer() -> Any:
        scorer = CiderScorer()
        for image, texts in references.items():
            scorer += (captions[image][0], texts)
        return scorer

    counted = new_scorer()
    counted.compute_doc_freq()

    def score() -> None:
        scorer = new_scorer()
        scorer.document_frequency = counted.document_frequency
        scorer.compute_cider()

    return score


def peer_whole(corpus: Corpus) -> Callable[[], Floats]:
    """The metric of pycocoevalcap as evaluations call it."""
    from pycocoevalcap.cider.cider import Cider

    references, captions = _strings(corpus)
    return lambda: Cider().compute_score(references, captions)[1]


def _strings(corpus: Corpus) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    def text(caption: list[int]) -> str:
        return " ".join(f"w{token}" for token in caption)

    references = {i: [text(c) for c in captions] for i, captions in corpus.references.items()}
    hypotheses = zip(references, corpus.hypotheses, strict=True)
    return references, {image: [text(caption)] for image, caption in hypotheses}
