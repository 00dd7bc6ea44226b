"""Scores of every evaluation, with 95 % intervals and paired differences to the first run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from capdist.data.dataset import References
from capdist.metrics.coco import split_words
from capdist.metrics.per_image import PerImage, compare, interval
from capdist.reporting.report.data import Score, ScoreRow, ScoreTable
from capdist.reporting.report.files import CONSTANT, EvaluationName, RunFiles
from shards.progress import tracked
from shards.schema import ShardError
from shards.tokenisers import CaptionText


@dataclass(frozen=True)
class Evaluated:
    """The captions of one evaluation; ``run`` is the run's number."""

    run: int
    files: RunFiles
    name: EvaluationName

    @property
    def split(self) -> str:
        return self.name.split

    @cached_property
    def rows(self) -> dict[str, Any]:
        return self.files.scores(self.name)

    @property
    def values(self) -> dict[str, float]:
        """The scores of the captions, × 100."""
        return next(row["values"] for name, row in self.rows.items() if name != CONSTANT)

    @cached_property
    def captions(self) -> dict[int, str]:
        return self.files.captions(self.name)

    @cached_property
    def per_image(self) -> tuple[list[int], PerImage] | None:
        """Image numbers and their scores.

        None without shards, without a caption or reference of an image, or for one image, whose
        CIDEr is undefined.
        """
        try:
            refs, text = self.files.references(self.split), self.files.manifest.text
        except ShardError:
            return None
        known = set(refs.raw) <= set(self.captions) and all(refs.raw.values())
        if not known or len(refs.raw) == 1:
            return None
        gold, found, _ = split_words(_texts(refs, text), self.captions, text, {})
        return list(gold), PerImage.of(gold, found)


def all_evaluations(runs: Sequence[RunFiles]) -> list[Evaluated]:
    """By run, and by split and beam."""
    return [
        Evaluated(number, files, name)
        for number, files in enumerate(runs)
        for name in sorted(files.evaluations)
    ]


def score_tables(evaluations: Sequence[Evaluated], runs: Sequence[str]) -> list[ScoreTable]:
    """A table for each split; ``runs`` are the names of the runs."""
    splits = dict.fromkeys(each.split for each in evaluations)
    return [_table([e for e in evaluations if e.split == split], runs) for split in splits]


def _table(evaluations: Sequence[Evaluated], runs: Sequence[str]) -> ScoreTable:
    first = {each.name: each for each in evaluations if each.run == 0}
    scoring = tracked(
        evaluations, len(evaluations), title="scoring for the report", unit="evaluation", inner=True
    )
    rows = [_row(each, runs[each.run], first.get(each.name)) for each in scoring]
    rows += _constant(evaluations[-1])
    columns = list(dict.fromkeys(metric for row in rows for metric in row.scores))
    return ScoreTable(evaluations[0].split, columns, rows, list(_notes(evaluations)))


def _row(evaluated: Evaluated, name: str, first: Evaluated | None) -> ScoreRow:
    speed = next(iter(evaluated.rows.values())).get("images_per_s")
    scores = {metric: Score(value) for metric, value in evaluated.values.items()}
    ends = interval(evaluated.per_image[1]) if evaluated.per_image else {}
    for metric in ends.keys() & scores.keys():
        low, high = ends[metric]
        scores[metric] = Score(scores[metric].value, float(low), float(high))
    if first is not None and first.run != evaluated.run:
        scores |= _compared(scores, first, evaluated)
    changed = bool(evaluated.name.changed)
    return ScoreRow(evaluated.run, name, evaluated.name.beam, changed, speed, scores)


def _compared(
    scores: Mapping[str, Score], first: Evaluated, other: Evaluated
) -> Iterator[tuple[str, Score]]:
    """The scores that both have, with their differences; intervals need the same images."""
    here, there = first.per_image, other.per_image
    same = here and there and here[0] == there[0]
    paired = compare(here[1], there[1], inner=True) if here and there and same else {}
    for metric in scores.keys() & first.values.keys():
        score, known = scores[metric], paired.get(metric)
        yield (
            metric,
            Score(
                score.value,
                score.low,
                score.high,
                score.value - first.values[metric],
                known.low if known else None,
                known.high if known else None,
                (1 if known.difference > 0 else -1) if known and known.excludes_zero else 0,
            ),
        )


def _constant(evaluated: Evaluated) -> Iterator[ScoreRow]:
    if CONSTANT in evaluated.rows:
        values = evaluated.rows[CONSTANT]["values"]
        scores = {metric: Score(value) for metric, value in values.items()}
        yield ScoreRow(None, CONSTANT, evaluated.name.beam, False, None, scores)


def _notes(evaluations: Sequence[Evaluated]) -> Iterator[str]:
    rows = dict(row for each in evaluations for row in each.rows.items())
    if CONSTANT in rows:
        yield f"{CONSTANT}: the best single training caption, given to every image."
    for tokeniser, names in _named((name, row["tokeniser"]) for name, row in rows.items()):
        if tokeniser != "ptb":
            yield f"{names}: {tokeniser} tokeniser; not comparable with published scores."
    absent = ((name, reason) for name, row in rows.items() for reason in row["absent"].items())
    for (metric, why), names in _named(absent):
        yield f"{metric} of {names} is absent: {why}."


def _named(facts: Iterable[tuple[str, Any]]) -> list[tuple[Any, str]]:
    """Each fact once, with all the names that it is about."""
    names: dict[Any, list[str]] = {}
    for name, fact in facts:
        names.setdefault(fact, []).append(name)
    return [(fact, ", ".join(about)) for fact, about in names.items()]


def _texts(refs: References, text: CaptionText) -> Mapping[int, Sequence[str]]:
    """References as an evaluation scores them: raw for PTB, else tokens joined by spaces."""
    if text.is_ptb:
        return refs.raw
    return {image: [" ".join(caption) for caption in each] for image, each in refs.tokens.items()}
