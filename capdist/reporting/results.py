"""The results page of a run for docs/results: every number is read from the run folder."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from typing_extensions import TypedDict

from capdist.config.base import read_json_as, validate
from capdist.config.data import DataConfig
from capdist.data.mixture import load_shards
from capdist.errors import CapdistError
from capdist.metrics.coco import cider_each
from capdist.reporting.curves import draw_curves
from capdist.reporting.metrics_log import METRICS_LOG, read_records
from capdist.reporting.report.files import (
    CONFIG,
    CONSTANT,
    RunJson,
    VersionsJson,
    read_captions,
    read_scores,
)
from capdist.reporting.table import format_markdown
from capdist.reporting.timeline import REWARDS, data_wait, timeline
from shards.atomic import write_text
from shards.image_ids import image_number
from shards.json_types import ImageId
from shards.manifest import Manifest

#: Number of captions to show with their references.
SHOWN = 5

#: Number of captions with the lowest CIDEr to show.
FAILURES = 2

#: What the page names of ``versions.json``.
VERSIONS = ("python", "torch", "deepspeed", "webdataset", "git")

DISCUSSION = "\n## Discussion\n"


class ResultsError(CapdistError):
    """The results of a run are incomplete, or a page has no place for them."""


class _NamesJson(TypedDict):
    best: str


@dataclass(frozen=True)
class Results:
    """The results of a run on one split."""

    run: Path
    split: str

    def write(self, out: Path) -> None:
        """Write the page as Markdown, and its curves as a PNG in the same folder.

        An existing page keeps its discussion, which is the last section.

        Raises:
            ResultsError: if the split has not been scored.
        """
        curves = out.with_name(f"{out.stem}_curves.png")
        text = "\n".join(self.lines(curves.name)) + "\n"
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_file():
            text += "".join(out.read_text(encoding="utf-8").partition(DISCUSSION)[1:])
        draw_curves(self.run / METRICS_LOG, curves)
        write_text(out, text)

    def write_timeline(self, out: Path) -> None:
        """Write a page with the time of each part of a self-critical step.

        Raises:
            ResultsError: if the run has no self-critical steps.
        """
        rows = timeline(read_records(self.run / METRICS_LOG))
        if not rows:
            raise ResultsError(
                f"{self.run}: no self-critical steps; train a stage with objective scst first"
            )
        write_text(
            out,
            f"# A self-critical step of {self.run.name}\n\n{self.config['description']}\n\n"
            f"{format_markdown(rows, ('ms', 'share %'))}\n\nMeans of the steps in the run's "
            f"`{METRICS_LOG}`, without the first few. Submitting and waiting are the cost of "
            "rewards to the trainer; the actors score in parallel.\n\n"
            f"```\n{self._command()}\n```\n",
        )

    def lines(self, curves: str) -> Iterator[str]:
        """The lines of the page; ``curves`` is the file name of the plot."""
        manifest = self.manifest
        yield f"# {manifest.name}: {self.run.name}\n"
        yield self.config["description"] + "\n"
        yield from self._scores()
        yield f"\n![training loss and validation CIDEr]({quote(curves)})\n"
        yield from self._facts()
        yield f"\n## {SHOWN} captions of the {self.split} split, beam {max(self._scored())}\n"
        annotations = [json.loads(data) for _, data in self.manifest.read(self.split, "json")]
        if {sample["image_id"] for sample in annotations} != self.captions.keys():
            again = shlex.join(["--run", str(self.run), "--split", self.split])
            raise ResultsError(
                f"{self.run}: the scores of {self.split} are of other images than those of "
                f"{self.manifest.location}; score these again: capdist evaluate {again}"
            )
        yield from self._captions(annotations[:: max(1, len(annotations) // SHOWN)][:SHOWN])
        yield f"\n## The {FAILURES} captions with the lowest CIDEr\n"
        yield from self._captions(self._failures(annotations))
        yield "\n## Commands\n"
        yield f"```\n{self._command()}\n"
        arguments = shlex.join(["--run", self.config["run"], "--split", self.split])
        for beam, rows in self._scored().items():
            grounding = any("F1_all" in row["values"] for row in rows.values())
            option = " --grounding" if grounding else ""
            yield f"capdist evaluate {arguments} --beam {beam}{option}"
        yield f"capdist results {arguments}\n```"

    @cached_property
    def config(self) -> RunJson:
        return read_json_as(RunJson, self.run / CONFIG)

    @cached_property
    def _versions(self) -> VersionsJson:
        return read_json_as(VersionsJson, self.run / "versions.json")

    @cached_property
    def manifest(self) -> Manifest:
        return load_shards(
            validate(DataConfig, self.config["data"], f"{self.run / CONFIG}", "data")
        )

    def _scored(self) -> dict[int, dict[str, Any]]:
        """The rows of ``scores.json`` for each beam width."""
        files = sorted((self.run / "scores").glob(f"{self.split}-beam*.json"))
        if not files:
            raise ResultsError(
                f"{self.run}: no scores of {self.split}; first run: capdist evaluate "
                + shlex.join(["--run", str(self.run), "--split", self.split])
            )
        return {int(file.stem.rpartition("beam")[2]): read_scores(file) for file in files}

    def fill(self, page: Path, name: str) -> None:
        """Write the table of scores between the markers ``name`` of a page.

        Raises:
            ResultsError: if the page has no such markers.
        """
        fill(page, name, self._table(self._rows()))

    def summary(self, beam: int) -> dict[str, float | None]:
        """Scores, sizes, speeds, and how long training took."""
        row = next(row for name, row in self._scored()[beam].items() if name != CONSTANT)
        records = read_records(self.run / METRICS_LOG)
        steps = [record for record in records if "loss" in record]
        return {
            **row["values"],
            "epochs": records[-1]["epoch"],
            "minutes": sum(record["step_s"] for record in steps) / 60,
            "M parameters": self._parameters() / 1e6,
            "captions/s": median(record["captions_per_s"] for record in steps),
            "images/s": row["images_per_s"],
        }

    def _rows(self) -> dict[str, dict[str, Any]]:
        rows = {name: row for scores in self._scored().values() for name, row in scores.items()}
        constant = rows.pop(CONSTANT, None)
        return {**rows, CONSTANT: constant} if constant else rows

    def _table(self, rows: dict[str, dict[str, Any]]) -> str:
        values = {name: row["values"] for name, row in rows.items()}
        columns = dict.fromkeys(metric for row in values.values() for metric in row)
        return format_markdown(values, list(columns))

    def _scores(self) -> Iterator[str]:
        rows = self._rows()
        yield self._table(rows)
        first = next(iter(rows.values()))
        yield f"\nScores × 100; references through the {first['tokeniser']} tokeniser."
        yield from (f"{metric} is absent: {why}." for metric, why in first["absent"].items())

    def _facts(self) -> Iterator[str]:
        records = read_records(self.run / METRICS_LOG)
        steps = [record for record in records if "loss" in record]
        evaluations = [record for record in records if "loss" not in record]
        scored = [record for record in evaluations if "val_cider" in record]
        speed = median(record["captions_per_s"] for record in steps)
        known = self._versions.items()
        versions = [f"{name} {version}" for name, version in known if name in VERSIONS]
        yield f"- parameters: {self._parameters() / 1e6:.2f} M"
        yield f"- steps: {len(steps)}, epochs: {evaluations[-1]['epoch']}"
        if scored:
            best = max(scored, key=lambda record: float(record["val_cider"]))
            yield f"- best validation CIDEr: {best['val_cider']:.1f}, after epoch {best['epoch']}"
            yield "  (greedy, on the tokens in the shards)"
        yield f"- training speed: {speed:.0f} captions/s (median step)"
        yield f"- waiting for data: {data_wait(steps):.1f} % of the steps' time"
        if rows := timeline(records):
            share = rows[REWARDS]["share %"]
            yield f"- rewards cost the trainer {share:.1f} % of a self-critical step"
        yield f"- wall time: {self._hours():.2f} h, from the first step to the last evaluation"
        yield f"- versions: {', '.join(versions)}"

    def _hours(self) -> float:
        """Wall time, from TensorBoard's events."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self.run / "tensorboard"), {"scalars": 0})
        events.Reload()
        names = {"loss", "val_words", "val_cider"} & set(events.Tags()["scalars"])
        times = [e.wall_time for name in names for e in events.Scalars(name)]
        return (max(times) - min(times)) / 3600

    def _parameters(self) -> int:
        from safetensors import safe_open

        checkpoints = self.run / "checkpoints"
        best = read_json_as(_NamesJson, checkpoints / "names.json")["best"]
        with safe_open(checkpoints / best / "model.safetensors", "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        return sum(math.prod(shape) for shape in shapes)

    @cached_property
    def captions(self) -> dict[ImageId, str]:
        """The captions of the widest beam, by image id."""
        file = self.run / "captions" / f"{self.split}-beam{max(self._scored())}.json"
        return read_captions(file)

    def _failures(self, annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        tokens = {image_number(sample["image_id"]): sample["tokens"] for sample in annotations}
        text = self.manifest.text
        # Where tokens of the file are kept, captions are tokens joined by spaces.
        split = str.split if text.keeps_given else text.split
        captions = {image_number(image): split(c) for image, c in self.captions.items()}
        scores = cider_each(tokens, captions)
        return sorted(annotations, key=lambda s: scores[image_number(s["image_id"])])[:FAILURES]

    def _captions(self, annotations: list[dict[str, Any]]) -> Iterator[str]:
        for sample in annotations:
            yield f"- **{self.captions[sample['image_id']]}** (image {sample['image_id']})"
            yield from (f"  - {reference}" for reference in sample["captions"])

    def _command(self) -> str:
        program, *rest = self._versions["command"]
        arguments = [argument for argument in rest if not argument.startswith("--local_rank")]
        installed = Path(program).name in ("capdist", "__main__.py")
        return shlex.join([*(["capdist"] if installed else ["deepspeed", program]), *arguments])


def fill(page: Path, name: str, text: str) -> None:
    """Replace the text between ``<!-- results:name -->`` and ``<!-- /results -->``.

    Raises:
        ResultsError: if the page has no such markers.
    """
    before, start, rest = page.read_text(encoding="utf-8").partition(f"<!-- results:{name} -->")
    _, end, after = rest.partition("<!-- /results -->")
    if not (start and end):
        raise ResultsError(
            f"{page}: no <!-- results:{name} --> ... <!-- /results -->; add both lines"
        )
    write_text(page, f"{before}{start}\n{text}\n{end}{after}")
