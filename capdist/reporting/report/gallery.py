"""The captions of a split, image by image, for all runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from capdist.reporting.report.data import CaptionView, Failures, Gallery, ImageView
from capdist.reporting.report.looks import SHOWN, Look
from capdist.reporting.report.ngram_matches import Frequencies
from capdist.reporting.report.objects import Objects, count_failures
from capdist.reporting.report.pictures import thumbnails
from capdist.reporting.report.scores import Evaluated
from shards.image_ids import image_number
from shards.manifest import Manifest
from shards.schema import decode_sample_json


@dataclass(frozen=True)
class SplitImages:
    """The first images of a split: keys, annotations and pictures."""

    manifest: Manifest
    split: str

    @cached_property
    def annotations(self) -> dict[str, Any]:
        """By key."""
        read = islice(self.manifest.read(self.split, "json"), SHOWN)
        return {key: decode_sample_json(key, data) for key, data in read}

    @cached_property
    def pictures(self) -> list[str]:
        """Data URLs, "" for an image without a picture."""
        found = thumbnails(self.manifest, self.split, SHOWN)
        return [found.get(key, "") for key in self.annotations]


def make_gallery(evaluations: Sequence[Evaluated], runs: int) -> tuple[Gallery, list[str]]:
    """The gallery of evaluations of one split, at most one of each run, and its pictures.

    Raises:
        ShardError: if the shards are not there.
    """
    first = evaluations[0]
    images = SplitImages(first.files.manifest, first.split)
    frequencies = Frequencies.of(first.files.references(first.split).tokens.values())
    views = {each.run: RunCaptions(each, frequencies) for each in evaluations}
    shown = [
        ImageView(
            image_id=annotation["image_id"],
            width=annotation["width"],
            height=annotation["height"],
            references=list(annotation["captions"]),
            captions=[
                views[run].view(image_number(annotation["image_id"])) if run in views else None
                for run in range(runs)
            ],
        )
        for annotation in images.annotations.values()
    ]
    total = len(first.files.references(first.split).raw)
    failures = [views[r].failures() if r in views else Failures([], []) for r in range(runs)]
    notes = list(_notes(evaluations, total, any(images.pictures)))
    return Gallery(first.split, total, shown, failures, notes), images.pictures


def _notes(evaluations: Sequence[Evaluated], total: int, pictures: bool) -> Iterator[str]:
    if total > SHOWN:
        yield f"The first {SHOWN} of {total} images; failures are counted over all of them."
    if not pictures:
        yield "The shards have no pictures: boxes are drawn on an empty canvas."
    for each in evaluations:
        if not each.files.looks(each.name):
            yield (
                f"{each.files.name}: no attention and no alternatives are stored; run "
                f"capdist evaluate --run {each.files.run} --split {each.split} again."
            )


@dataclass(frozen=True)
class RunCaptions:
    """The captions of one run on a split."""

    evaluated: Evaluated
    frequencies: Frequencies

    @cached_property
    def looks(self) -> dict[int, Look]:
        return self.evaluated.files.looks(self.evaluated.name)

    @cached_property
    def objects(self) -> Objects:
        return Objects.of(self.evaluated.files.manifest)

    @cached_property
    def references(self) -> dict[int, tuple[tuple[str, ...], ...]]:
        return self.evaluated.files.references(self.evaluated.split).tokens

    @cached_property
    def ciders(self) -> dict[int, float]:
        if self.evaluated.per_image is None:
            return {}
        ids, scores = self.evaluated.per_image
        return dict(zip(ids, scores.means["CIDEr"].tolist(), strict=True))

    def words(self, image: int) -> list[str]:
        if image in self.looks:
            return self.looks[image].beams[0].words
        text, caption = self.evaluated.files.manifest.text, self.evaluated.captions[image]
        # Where tokens of the file are kept, captions are tokens joined by spaces.
        return list(caption.split() if text.keeps_given else text.split(caption))

    def view(self, image: int) -> CaptionView | None:
        """The caption of an image; None if it has none."""
        if image not in self.evaluated.captions:
            return None
        words, references, seen = self.words(image), self.references[image], self.looks.get(image)
        known = {word for reference in references for word in reference}
        cider = self.ciders.get(image)
        return CaptionView(
            words=words,
            cider=None if cider is None else round(cider, 1),
            ngrams=self.frequencies.matches(words, references),
            unmatched=[i for i, word in enumerate(words) if references and word not in known],
            missing=self.objects.missing(words, references),
            invented=self.objects.invented(words, references),
            beams=seen.beams if seen else [],
            boxes=seen.boxes if seen else [],
            labels=seen.labels if seen else [],
            concepts=seen.concepts if seen else [],
            maps=seen.maps if seen else {},
        )

    def failures(self) -> Failures:
        """Over all images of the split."""
        pairs = [(self.words(i), self.references[i]) for i in self.evaluated.captions]
        return count_failures(
            (self.objects.missing(*pair) for pair in pairs),
            (self.objects.invented(*pair) for pair in pairs),
        )
