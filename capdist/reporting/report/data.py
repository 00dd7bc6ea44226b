"""What a report shows, as plain data: JSON for the page's scripts, objects for its template."""

from __future__ import annotations

from dataclasses import dataclass

from capdist.reporting.report.looks import Beam, Map
from shards.json_types import ImageId


@dataclass(frozen=True)
class Score:
    """A score × 100, the ends of its 95 % interval, and the difference to the first run's.

    ``ahead`` is 1 or -1 if the interval of the difference is above or below 0, else 0.
    """

    value: float
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    ahead: int = 0


@dataclass(frozen=True)
class ScoreRow:
    """One captioner on one split; ``run`` is its number, None for the constant caption.

    ``changed``: whether other decoding settings than the config's were used, besides the beam.
    """

    run: int | None
    name: str
    beam: int
    changed: bool
    images_per_s: float | None
    scores: dict[str, Score]


@dataclass(frozen=True)
class ScoreTable:
    """All captioners of a split."""

    split: str
    columns: list[str]
    rows: list[ScoreRow]
    notes: list[str]


@dataclass(frozen=True)
class Part:
    """A part of the training step of a stage: mean seconds, and their share of the step."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class StepTime:
    """Where the mean step of a stage spent its time."""

    stage: str
    seconds: float
    parts: list[Part]


@dataclass(frozen=True)
class Curve:
    """One number against the step; ``name`` is its key in the metrics log."""

    name: str
    steps: list[int]
    values: list[float | None]


@dataclass(frozen=True)
class Training:
    """A run's training so far: ``speed`` is the median of its captions/s."""

    steps: int
    epochs: float
    finished: bool
    speed: float | None
    best: dict[str, float]
    times: list[StepTime]
    skipped: int
    lost: list[str]
    curves: list[Curve]


@dataclass(frozen=True)
class Run:
    name: str
    folder: str
    description: str
    training: Training


@dataclass(frozen=True)
class Setting:
    """A dotted key of the configs, and each run's value as JSON; None where a run lacks it."""

    key: str
    values: list[str | None]
    differs: bool


@dataclass(frozen=True)
class NGram:
    """An n-gram of a caption: in how many references it is, and its weight in CIDEr, the idf."""

    text: str
    references: int
    weight: float


@dataclass(frozen=True)
class CaptionView:
    """One run's caption of an image.

    ``cider`` is its CIDEr × 100; ``unmatched`` are the positions of words that no reference has;
    ``missing`` are objects that all references name and the caption does not, ``invented`` objects
    of the caption that no reference names. The rest is as in `Look`, empty where nothing is stored.
    """

    words: list[str]
    cider: float | None
    ngrams: list[NGram]
    unmatched: list[int]
    missing: list[str]
    invented: list[str]
    beams: list[Beam]
    boxes: list[list[int]]
    labels: list[str]
    concepts: list[str]
    maps: dict[str, Map]


@dataclass(frozen=True)
class ImageView:
    """An image of the gallery, with the caption of each run that has one; 0 is an unknown size."""

    image_id: ImageId
    width: int
    height: int
    references: list[str]
    captions: list[CaptionView | None]


@dataclass(frozen=True)
class Failure:
    """An object that captions of a run miss or invent, and in how many images."""

    word: str
    count: int


@dataclass(frozen=True)
class Failures:
    """The objects that a run's captions miss and invent, the most frequent first."""

    missing: list[Failure]
    invented: list[Failure]


@dataclass(frozen=True)
class Gallery:
    """Captions of a split. ``notes`` say what is not there, and why.

    ``failures`` count over all images of the split, which may be more than ``images``.
    """

    split: str
    total: int
    images: list[ImageView]
    failures: list[Failures]
    notes: list[str]


@dataclass(frozen=True)
class Report:
    """The whole report; ``pictures`` are data URLs, parallel to the gallery's images."""

    title: str
    runs: list[Run]
    tables: list[ScoreTable]
    settings: list[Setting]
    gallery: Gallery | None
    pictures: list[str]
