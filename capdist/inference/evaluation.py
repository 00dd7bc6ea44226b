"""Scores of a trained model, or an ensemble, next to those of one caption for all images.

Writes into the run folder, or another one: ``captions/<split>-beam<K>.json`` (COCO results format),
``captions/<split>-beam<K>.attention.json.gz`` (alternatives, and what words attended to),
``scores/<split>-beam<K>.json``, ``scores.json`` (the latest of them) and ``report.html``.
With other decoding settings than the config's, besides the beam, ``-<digest of them>`` follows the
split. The scores' files have all settings. The last checkpoint instead of the best, and other
shards than the run's, have files of their own, and do not change ``scores.json`` and report.
If grounding is requested, F1_all and F1_loc of the regions it attended to are among the scores.
An ensemble has no report and no ``scores.json``, which belong to one run.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from capdist.config.base import ConfigError
from capdist.config.decoding import DecodingConfig
from capdist.data.dataset import References, references
from capdist.decoding.constraints import Constraints
from capdist.decoding.generate import Caption
from capdist.inference.caption_scores import score_words
from capdist.inference.ensembles import joined_model
from capdist.inference.exported_model import ExportedModel, run_shards
from capdist.inference.feature_check import FeatureCheck
from capdist.inference.grounding import Annotated, read_class_names
from capdist.inference.looks import Names, look
from capdist.inference.run_folder import BEST, FINISHED, find_checkpoint, read_versions
from capdist.metrics.coco import Scores, probe, write_results
from capdist.metrics.constant import constant_caption
from capdist.metrics.endings import bad_endings, describe_endings
from capdist.reporting.report.files import CONSTANT, REPORT, SCORES, RunFiles, looks_path
from capdist.reporting.report.looks import SHOWN, write_looks
from capdist.reporting.report.page import write_report
from capdist.reporting.table import format_table
from capdist.tracking.run_tracking import send_scores
from capdist.workers.eval_pool import SplitDecoding, Workers, decode_split
from shards.atomic import write_text
from shards.json_types import ImageId
from shards.manifest import Manifest
from shards.outputs import check_output_folder
from shards.progress import Progress
from shards.tokenisers import CaptionText


@dataclass(frozen=True)
class EvaluationRequest:
    """The options of an evaluation.

    Args:
        run: folder; of an ensemble that of the first member.
        split: to decode.
        checkpoint: the run's ``best`` or its ``last``.
        decoding: overrides of the config's settings, such as ``decoding.beam=5``.
        grounding: whether to score the regions that the model attended to.
        classes: file with the names of the classes whose grounding is scored, instead of all.
        shards: their folder, instead of the config's.
        workers: on Ray; 0 decodes in this process.
        cpus: of each worker.
        address: of Ray, instead of the config's.
        out: folder of the results, instead of the run.
        accept_features: whether features with other statistics than those of training are scored.
    """

    run: Path
    split: str
    checkpoint: str = BEST
    decoding: tuple[str, ...] = ()
    grounding: bool = False
    classes: Path | None = None
    shards: str | None = None
    workers: int = 0
    cpus: float = 1.0
    address: str | None = None
    out: Path | None = None
    accept_features: bool = False

    @property
    def folder(self) -> Path:
        """That gets the results."""
        return self.out or self.run


@dataclass(frozen=True)
class Evaluation:
    """One model, or an ensemble, on one split, with one decoding config."""

    run: Path
    members: tuple[ExportedModel, ...]
    manifest: Manifest
    split: str
    decoding: DecodingConfig
    annotated: Annotated | None
    workers: Workers
    folder: Path
    checkpoint: str

    @classmethod
    def open(cls, request: EvaluationRequest, *members: ExportedModel) -> Evaluation:
        """The evaluation of an exported checkpoint, or of several that decode together.

        The first one's config decodes.

        Raises:
            ConfigError: if the model and the shards do not fit, the number of workers or a decoding
                setting is wrong, or the results can't be written.
            ShardError: if the shards are not there, or have no such split or no grounding.
        """
        try:
            check_output_folder(request.folder)
        except OSError as error:
            raise ConfigError(
                f"{request.folder}: {error.strerror}; give another folder for the results by --out"
            ) from error
        if request.workers < 0 or request.cpus <= 0:
            raise ConfigError(
                f"command line: --workers {request.workers} with --cpus {request.cpus:g} each; "
                "expected 0 workers or more, with more than 0 CPUs"
            )
        first, split = members[0], request.split
        manifest = run_shards(first.config, request.run, request.shards)
        for member in members:
            member.check_features(
                manifest, FeatureCheck(request.accept_features, (request.folder,))
            )
            member.check_text(manifest)
            member.check_members(manifest, split)
        annotated = _annotated(request, manifest)
        decoding, cluster = first.decoding(request.decoding), first.config.ray
        Constraints.of(decoding, first.vocab)
        if request.address:
            cluster = cluster.model_copy(update={"address": request.address})
        workers = Workers(request.workers, request.cpus, cluster)
        return cls(
            request.run,
            members,
            manifest,
            split,
            decoding,
            annotated,
            workers,
            request.folder,
            request.checkpoint,
        )

    @property
    def first(self) -> ExportedModel:
        """The first member; all have its vocabulary."""
        return self.members[0]

    @property
    def is_ensemble(self) -> bool:
        return len(self.members) > 1

    @property
    def name(self) -> str:
        """The stem of the files that it writes: another one for each decoding and set of images."""
        usual = self.first.config.decoding.model_copy(update={"beam": self.decoding.beam})
        settings = self.decoding.model_dump_json()
        digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
        changed = "" if self.decoding == usual else f"-{digest}"
        last = "" if self.checkpoint == BEST else f"-checkpoint-{self.checkpoint}"
        other = f"-shards-{self.digest[:6]}" if self.is_of_other_shards else ""
        return f"{self.split}{changed}{last}{other}-beam{self.decoding.beam}"

    @property
    def digest(self) -> str:
        return self.manifest.split_digest(self.split)

    @property
    def is_of_other_shards(self) -> bool:
        """Whether the images are not those of the run's own split; older runs do not know them."""
        own = read_versions(self.run).get("shards", {}).get("splits")
        return own is not None and own.get(self.split) != self.digest

    def evaluate(self) -> None:
        """Decode, score where there are references, print the table, write the files."""
        text = self.manifest.text
        for metric, reason in probe(text).items():
            print(f"{metric} will be absent: {reason}")
        refs = references(self.manifest, self.split)
        beams, images_per_s = self.decode()
        decoded = {image: captions[0] for image, captions in beams.items()}
        captions = sentences(decoded, text)
        endings = bad_endings((caption.words for caption in decoded.values()), text)
        print(describe_endings(endings, text))
        path = self.write_captions(self.name, refs.by_id(captions))
        self.write_looks(beams)
        if not any(refs.raw.values()):
            print(f"{self.split} has no reference captions; nothing is scored")
            print(f"captions: {path}")
            return
        rows = {f"{self.title}, beam {self.decoding.beam}": self.score(refs, decoded)}
        if "train" in {shard.split for shard in self.manifest.shards}:
            constant = constant_caption(references(self.manifest, "train").tokens)
            print(f"constant caption: {text.join(constant)!r}")
            rows[CONSTANT] = score_words(refs, dict.fromkeys(captions, constant), text)
        self.report(captions, rows, images_per_s)
        print(f"captions: {path}")

    @property
    def title(self) -> str:
        """The run's name, or those of an ensemble's members."""
        if not self.is_ensemble:
            return self.run.resolve().name
        return " + ".join(Path(member.config.run).resolve().name for member in self.members)

    def write_captions(self, name: str, captions: dict[ImageId, str]) -> Path:
        """Write captions by image id; returns their path."""
        path = self.folder / "captions" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        write_results(path, captions)
        return path

    def write_looks(self, beams: dict[int, list[Caption]]) -> None:
        """Write alternatives and attention of the first images, for the report."""
        batches = chain.from_iterable(self.task.batches.epoch(0))
        size = self.decoding.batch
        first = islice(batches, -(-min(SHOWN, len(beams)) // size))
        names = Names(self.first.vocab, self.manifest.class_names)
        found = islice(look(joined_model(self.members), names, first, beams), SHOWN)
        write_looks(looks_path(self.folder, self.name), list(found))

    @property
    def task(self) -> SplitDecoding:
        """The split, and how it is decoded."""
        return SplitDecoding(
            joined_model(self.members),
            self.manifest,
            self.split,
            self.first.config.data,
            self.first.vocab,
            self.decoding,
            self.annotated is not None,
        )

    def decode(self) -> tuple[dict[int, list[Caption]], float]:
        """The captions of every image of the split, best first, and images/s."""
        task = self.task
        images, started = task.batches.plan.order.samples, time.perf_counter()
        with Progress(images, title=f"decoding {self.split}", unit="image") as progress:
            parts = {}
            for number, part in decode_split(task, self.workers, progress.say):
                parts[number] = part
                progress.advance(len(part))
        speed = images / (time.perf_counter() - started)
        print(f"decoded {images} images with beam {self.decoding.beam}, {speed:.1f} images/s")
        return dict(chain.from_iterable(parts[number] for number in sorted(parts))), speed

    def score(self, refs: References, decoded: dict[int, Caption]) -> Scores:
        """Every metric of the captions, and grounding if it is requested."""
        words = {image: caption.words for image, caption in decoded.items()}
        found = score_words(refs, words, self.manifest.text)
        grounding = self.annotated.f1(decoded) if self.annotated else {}
        if self.annotated:
            print(f"grounding: F1 over {len(self.annotated.classes)} classes")
        return replace(found, values={**found.values, **grounding})

    def report(
        self, captions: dict[int, str], rows: dict[str, Scores], images_per_s: float
    ) -> None:
        """Print the table, and write scores and report."""
        print_scores(f"{self.manifest.name}, {self.split}, {len(captions)} images", rows)
        written = {name: row.to_json() for name, row in rows.items()}
        scored = next(iter(written.values()))
        scored.update(images_per_s=images_per_s, decoding=self.decoding.model_dump(mode="json"))
        scored["weights"] = [member.weights for member in self.members]
        if self.annotated:
            scored["grounding_classes"] = len(self.annotated.classes)
        text = json.dumps(written, indent=1)
        path = self.folder / "scores" / f"{self.name}.json"
        path.parent.mkdir(exist_ok=True)
        write_text(path, text)
        if self.is_of_other_shards or self.is_ensemble or self.checkpoint != BEST:
            # not what the run's report and pages are about
            print(f"scores:   {path}")
            return
        write_text(self.folder / SCORES, text)
        self.track(rows)
        page = self.folder / REPORT
        run = RunFiles(self.run, self.folder, known=self.manifest)
        write_report([run], page, self.split)
        print(f"scores:   {path}\nreport:   {page}")

    def track(self, rows: dict[str, Scores]) -> None:
        """Add the scores to the services that follow the run, once its training is finished."""
        if self.folder == self.run and find_checkpoint(self.run, FINISHED):
            scored = next(iter(rows.values())).values
            config = self.first.config.model_dump(mode="json", exclude={"schema_"})
            named = {f"{self.name}/{metric}": value for metric, value in scored.items()}
            send_scores(self.run, config, named)


def _annotated(request: EvaluationRequest, manifest: Manifest) -> Annotated | None:
    """The annotated objects of the split, if grounding is requested."""
    if request.classes and not request.grounding:
        raise ConfigError("command line: --classes are those of --grounding; give both or neither")
    if not request.grounding:
        return None
    names = read_class_names(request.classes) if request.classes else None
    return Annotated.read(manifest, request.split, names)


def print_scores(title: str, rows: dict[str, Scores]) -> None:
    """Print a table of scores, and what is absent from it."""
    print(f"\n{title}")
    columns = list(dict.fromkeys(metric for row in rows.values() for metric in row.values))
    print(format_table({name: row.values for name, row in rows.items()}, columns))
    first = next(iter(rows.values()))
    for metric, reason in first.absent.items():
        print(f"{metric} is absent: {reason}")
    print(f"references through the {first.tokeniser} tokeniser\n")


def sentences(decoded: dict[int, Caption], text: CaptionText) -> dict[int, str]:
    """The captions as their tokeniser writes them."""
    return {image: text.join(caption.words) for image, caption in decoded.items()}
