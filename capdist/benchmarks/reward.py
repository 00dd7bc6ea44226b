"""The CIDEr-D reward beside pycocoevalcap's Cider, on one core.

Both score the same made-up captions, five references an image. Each gets its tokens ready-made:
the reward packed arrays of ids, pycocoevalcap strings of words.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from capdist.benchmarks.timing import Timing, interleave
from capdist.config import ConfigError
from capdist.metrics.captions import Floats, Ints, References
from capdist.metrics.cider_d import CiderD
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.reporting.table import format_markdown, format_table
from capdist.rewards.base import build
from capdist.vocab import EOS, PAD, SPECIALS, Vocabulary

#: COCO's usual sizes: V with specials, captions of an image, words of a caption.
VOCABULARY, REFERENCES, LENGTH = 9_488, 5, (6, 20)
#: Packed captions of one call, and passes of a round: pycocoevalcap takes about as long for one.
CALL, PASSES, ROUNDS = 250, 200, 7
COLUMNS = ("captions/s", "slowest", "fastest", "times the peer")

OURS, OURS_WHOLE = "capdist", "capdist, built too"
PEER, PEER_WHOLE = "pycocoevalcap", "pycocoevalcap, df counted too"


@dataclass(frozen=True)
class Corpus:
    """Captions of M images: ``references`` by image, ``packed`` (M, 1 + L) to be scored."""

    references: dict[int, list[list[int]]]
    packed: Ints

    @property
    def hypotheses(self) -> list[list[int]]:
        """The packed captions as lists, in order of image."""
        return [row[row != PAD].tolist() for row in self.packed[:, 1:]]


@dataclass(frozen=True)
class Contestant:
    """One that scores so many captions in a round."""

    captions: int
    score: Callable[[], Any]


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
            "# CIDEr-D as a reward, on one core\n\n"
            f"One caption of each of {self.images} images against {REFERENCES} references, end "
            f"tokens included, made up of {VOCABULARY} words by Zipf's law. Median, slowest and "
            f"fastest of {ROUNDS} rounds in which all took turns, on a machine of {os.cpu_count()} "
            f"cores with a load of {self.load:.1f}: if that is well above 1, other programs ran "
            "beside them, and the figures should be taken again. With the same document "
            f"frequency no score differs by more than {self.difference:.1e}.\n\n"
            f"{format_markdown(self.rows, COLUMNS)}\n\n"
            "What is counted, besides scoring:\n\n"
            f"- **{OURS}**: checking and unpacking, {CALL} packed captions a call. Document "
            "frequency and the references' tf-idf vectors are ready, as in training.\n"
            f"- **{PEER}**, the peer: n-grams of captions and references, which it takes at every "
            "scoring. Its document frequency is ready, as in training, though its `Cider` counts "
            "it at every call; strings are ready too.\n"
            f"- **{OURS_WHOLE}**: everything from lists of ids on: document frequency, tf-idf "
            "vectors.\n"
            f"- **{PEER_WHOLE}**: its `Cider().compute_score` as it is, from strings on.\n\n"
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
    ours, theirs = ours_whole(corpus), peer_whole(corpus)
    contestants = {
        OURS: Contestant(PASSES * images, ours_ready(corpus)),
        OURS_WHOLE: Contestant(images, ours),
        PEER: Contestant(images, peer_ready(corpus)),
        PEER_WHOLE: Contestant(images, theirs),
    }
    captions = {name: contestant.captions for name, contestant in contestants.items()}
    scorers = {name: contestant.score for name, contestant in contestants.items()}
    difference = float(np.abs(ours() - theirs()).max())
    timings = interleave(scorers, ROUNDS)
    return Figures(images, captions, timings, difference, os.getloadavg()[1])


def make_corpus(images: int) -> Corpus:
    """Made-up captions, the same every time.

    An image has words of its own, place by place, and each caption has about half of them; the
    others are drawn anew. Both by Zipf's law with Mandelbrot's shift.
    """
    random = np.random.default_rng(1)
    share = 1 / (np.arange(VOCABULARY - len(SPECIALS)) + 2.7)

    def words(*shape: int) -> Ints:
        return len(SPECIALS) + random.choice(len(share), shape, p=share / share.sum())

    shape = (images, 1 + REFERENCES, LENGTH[1])
    kept = random.random(shape) < 0.5
    tokens = np.where(kept, words(images, 1, LENGTH[1]), words(*shape))
    lengths = random.normal(10.5, 2.4, shape[:2]).round().astype(np.int64).clip(*LENGTH)
    tokens = np.pad(tokens, ((0, 0), (0, 0), (0, 1)))
    place = np.arange(LENGTH[1] + 1)
    tokens[place == lengths[..., None]] = EOS
    tokens[place > lengths[..., None]] = PAD
    references = {
        image: [caption[caption != PAD].tolist() for caption in captions]
        for image, captions in enumerate(tokens[:, 1:])
    }
    return Corpus(references, np.column_stack([np.arange(images), tokens[:, 0]]))


def ours_ready(corpus: Corpus) -> Callable[[], None]:
    """The reward as training calls it."""
    references = References.of(corpus.references)
    vocabulary = Vocabulary([f"w{i}" for i in range(len(SPECIALS), VOCABULARY)])
    df = DocumentFrequency.count(references, vocabulary.hash)
    reward = build({"cider_d": 1.0}, references, vocabulary, df)
    calls = np.split(corpus.packed, range(CALL, len(corpus.packed), CALL)) * PASSES

    def score() -> None:
        for packed in calls:
            reward(packed)

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
