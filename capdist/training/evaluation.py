"""Scores of a trained model on a split, beside those of a caption that looks at no image.

Writes into the run folder: ``captions/<split>-beam<K>.json`` (COCO results format),
``scores/<split>-beam<K>.json``, ``scores.json`` (the latest of them) and ``report-<split>.html``.
Where it is asked for, F1_all and F1_loc of what the model looked at are among the scores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import torch

from capdist.config import DecodingConfig
from capdist.data.dataset import References, evaluation_batches, references
from capdist.data.places import Ranks
from capdist.decoding.split import Caption, caption_images
from capdist.metrics.coco import Scores, probe, score, write_results
from capdist.metrics.constant import constant_caption
from capdist.metrics.endings import bad_endings
from capdist.reporting.page import CONSTANT, SCORES, ReportSample, write_report
from capdist.reporting.progress import Progress
from capdist.reporting.table import format_table
from capdist.training.export import Exported, read_run, run_shards
from capdist.training.grounding import Annotated
from shards.index import Manifest

#: Images that the report shows.
SAMPLES = 12


@dataclass(frozen=True)
class Evaluation:
    """One model, one split, one way to decode."""

    run: Path
    exported: Exported
    manifest: Manifest
    split: str
    decoding: DecodingConfig
    annotated: Annotated | None = None

    @classmethod
    def open(
        cls, run: Path, split: str, checkpoint: str, beam: int | None, *, grounding: bool = False
    ) -> Evaluation:
        """The ``best`` or ``last`` checkpoint of a run.

        Args:
            run: folder.
            split: to decode.
            checkpoint: "best" or "last".
            beam: instead of the config's.
            grounding: whether to score where the model looked, too.

        Raises:
            ConfigError: if the run has no such checkpoint, or it is damaged.
            ShardError: if the shards are not there, or have no such split or no grounding.
        """
        exported = read_run(run, checkpoint)
        manifest = run_shards(exported.config, run)
        exported.check_features(manifest)
        manifest.split(split)
        annotated = Annotated.read(manifest, split) if grounding else None
        return cls(run, exported, manifest, split, exported.decoding(beam), annotated)

    @property
    def name(self) -> str:
        """Of the files it writes."""
        return f"{self.split}-beam{self.decoding.beam}"

    def evaluate(self) -> None:
        """Decode, score where there are references, print the table, write the files."""
        for metric, reason in probe().items():
            print(f"{metric} will be absent: {reason}")
        decoded, images_per_s = self.decode()
        captions = {image: " ".join(caption.words) for image, caption in decoded.items()}
        print(f"{100 * bad_endings(c.split() for c in captions.values()):.1f} % end badly")
        path = self.run / "captions" / f"{self.name}.json"
        path.parent.mkdir(exist_ok=True)
        write_results(path, captions)
        known = references(self.manifest, self.split)
        if not any(known.raw.values()):
            print(f"{self.split} has no captions to compare with; nothing is scored")
            print(f"captions: {path}")
            return
        grounding = self.annotated.f1(decoded) if self.annotated else {}
        self.report(known, captions, self.score(known, captions, grounding), images_per_s)
        print(f"captions: {path}")

    def decode(self) -> tuple[dict[int, Caption], float]:
        """The best caption of every image of the split, and images/s."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        exported, batch = self.exported, self.decoding.batch
        data, vocab = exported.config.data, exported.vocab
        batches = evaluation_batches(self.manifest, self.split, data, batch, vocab, Ranks())
        images, started = batches.plan.order.samples, time.perf_counter()
        with Progress(images, title=f"decoding {self.split}", unit="image") as progress:
            model, parts = exported.model.to(device), chain.from_iterable(batches.epoch(0))
            found, boxes = {}, self.annotated is not None
            for image, captions in caption_images(
                model, parts, vocab, self.decoding, device, boxes=boxes
            ):
                found[image] = captions[0]
                progress.advance(1)
        speed = images / (time.perf_counter() - started)
        print(f"decoded {images} images with beam {self.decoding.beam}, {speed:.1f} images/s")
        return found, speed

    def score(
        self, known: References, captions: dict[int, str], grounding: dict[str, float]
    ) -> dict[str, Scores]:
        """Scores of the model, with those of its grounding, and of the constant caption."""
        constant = " ".join(constant_caption(references(self.manifest, "train").tokens))
        print(f"constant caption: {constant!r}")
        own = score(known.raw, captions)
        return {
            f"{self.run.resolve().name}, beam {self.decoding.beam}": replace(
                own, values={**own.values, **grounding}
            ),
            CONSTANT: score(known.raw, dict.fromkeys(captions, constant)),
        }

    def report(
        self,
        known: References,
        captions: dict[int, str],
        rows: dict[str, Scores],
        images_per_s: float,
    ) -> None:
        """The table on the terminal, and a page with curves, captions and their pictures."""
        print(f"\n{self.manifest.name}, {self.split}, {len(captions)} images")
        columns = list(dict.fromkeys(metric for row in rows.values() for metric in row.values))
        print(format_table({name: row.values for name, row in rows.items()}, columns))
        first = next(iter(rows.values()))
        for metric, reason in first.absent.items():
            print(f"{metric} is absent: {reason}")
        print(f"references through the {first.tokeniser} tokeniser\n")
        written = {name: row.to_json() for name, row in rows.items()}
        next(iter(written.values()))["images_per_s"] = images_per_s
        text = json.dumps(written, indent=1)
        path = self.run / "scores" / f"{self.name}.json"
        path.parent.mkdir(exist_ok=True)
        for target in (path, self.run / SCORES):
            target.write_text(text)
        page = self.run / f"report-{self.split}.html"
        write_report(self.run, page, samples=list(self.samples(known, captions)))
        print(f"scores:   {path}\nreport:   {page}")

    def samples(self, known: References, captions: dict[int, str]) -> Iterator[ReportSample]:
        """The first images of the split, with their pictures where the shards have them."""
        keys = [entry.key for entry in self.manifest.index(self.manifest.split(self.split)[0])]
        pictures = dict(islice(self.manifest.read(self.split, "png"), SAMPLES))
        for key, image in islice(zip(keys, known.raw, strict=False), SAMPLES):
            yield ReportSample(key, captions[image], known.raw[image], pictures.get(key))
