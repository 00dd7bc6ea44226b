"""Two captioners on the same images: their scores, and the paired difference with its interval."""

from __future__ import annotations

from pathlib import Path

from capdist.config.base import ConfigError
from capdist.data.dataset import References, references
from capdist.inference.exported_model import outdated, run_shards
from capdist.inference.given_captions import captions_by_number, read_results
from capdist.inference.run_folder import read_run_config, read_versions
from capdist.metrics.coco import ScoreError, check_images, split_words
from capdist.metrics.per_image import METRICS, PerImage, compare
from capdist.reporting.table import format_table
from shards.manifest import Manifest
from shards.tokenisers import CaptionText, nfc


def print_comparison(
    a: Path, b: Path, split: str, beam: int | None, shards: str | None, resamples: int
) -> None:
    """Score two captioners and print B - A of every metric with its 95 % interval.

    Args:
        a: a run folder that was evaluated on the split, or a file of COCO results.
        b: the same, of the other captioner.
        split: of the images.
        beam: of the evaluations of run folders; None: that of each run's config.
        shards: with the references; None: those of the first run folder.
        resamples: of the bootstrap.

    Raises:
        ConfigError: if a run was not evaluated so, with other weights than it has now, or on other
            images, or there are no shards.
        ScoreError: if a file has another form, or lacks an image.
        ShardError: if the shards are not there, or have no such split.
    """
    for path in (a, b):
        if path.is_dir() and not (path / "config.json").is_file():
            raise ConfigError(
                f"{path}: no run folder, because it has no config.json; of an ensemble, give the "
                f"file of captions: {path}/captions/{split}-beam{beam or 3}.json"
            )
    manifest = _manifest((a, b), shards)
    refs, files = references(manifest, split), [_captions(path, split, beam) for path in (a, b)]
    for path in (a, b):
        _check_images(path, split, manifest, refs)
    absent: dict[str, str] = {}
    (first, used), (second, also) = (
        _per_image(file, refs, manifest.text, absent) for file in files
    )
    if used != also:
        raise ScoreError(
            f"{files[1]}: the tokeniser of {files[0]} failed: {absent['PTB']}; try again"
        )
    found = compare(first, second, resamples)
    print(f"{manifest.name}, {split}, {len(refs.raw)} images\nA: {files[0]}\nB: {files[1]}")
    for missing, reason in absent.items():
        print(f"{missing} is absent: {reason}")
    print(f"references through the {used} tokeniser\n")
    rows = {
        metric: {
            "A": found[metric].a,
            "B": found[metric].b,
            "B - A": found[metric].difference,
            "from": found[metric].low,
            "to": found[metric].high,
        }
        for metric in METRICS
    }
    print(format_table(rows, ("A", "B", "B - A", "from", "to")))
    print(f"\n95 % intervals of B - A over {resamples} resamples of the images, the same for both")
    for metric in METRICS:
        ahead = "B is ahead" if found[metric].difference > 0 else "A is ahead"
        print(f"{metric}: {ahead if found[metric].excludes_zero else 'no difference is shown'}")


def _manifest(paths: tuple[Path, Path], shards: str | None) -> Manifest:
    if shards:
        return Manifest.load(shards)
    run = next((path for path in paths if path.is_dir()), None)
    if run is None:
        raise ConfigError("no references for two files of captions; give --shards DIR")
    return run_shards(read_run_config(run), run)


def _check_images(path: Path, split: str, manifest: Manifest, refs: References) -> None:
    """Refuse a run that was evaluated on other images; ids of different data sets may be equal."""
    digest = read_versions(path).get("shards", {}).get("splits", {}).get(split)
    if digest in (None, manifest.split_digest(split)):
        return
    own = run_shards(read_run_config(path), path)
    if references(own, split).raw != refs.raw:
        raise ConfigError(
            f"{path}: split {split} of its shards {own.location} has other images or captions than "
            f"that of {manifest.location}; compare captioners of the same images"
        )


def _captions(path: Path, split: str, beam: int | None) -> Path:
    """The file of a captioner's captions."""
    if not path.is_dir():
        return path
    width = beam or read_run_config(path).decoding.beam
    file = path / "captions" / f"{split}-beam{width}.json"
    if not file.is_file():
        raise ConfigError(
            f"{file}: no such file; first run: capdist evaluate --run {path} --split {split} "
            f"--beam {width}"
        )
    scores = path / "scores" / file.name
    if scores.is_file() and (line := outdated(path, scores)):
        raise ConfigError(line)
    return file


def _per_image(
    file: Path, refs: References, text: CaptionText, absent: dict[str, str]
) -> tuple[PerImage, str]:
    """The captions of a file, scored, and the name of their tokeniser."""
    captions = captions_by_number(read_results(file), refs)
    check_images(refs.raw, captions)
    gold = refs.raw
    if not text.is_ptb:
        gold = {n: tuple(" ".join(tokens) for tokens in every) for n, every in refs.tokens.items()}
        captions = {n: " ".join(text.split(nfc(caption))) for n, caption in captions.items()}
    tokenised, candidates, tokeniser = split_words(gold, captions, text, absent)
    return PerImage.of(tokenised, candidates), tokeniser
