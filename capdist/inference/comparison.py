"""Two captioners on the same images: their scores, and the paired difference with its interval."""

from __future__ import annotations

from pathlib import Path

from capdist.config.base import ConfigError
from capdist.data.dataset import References, references
from capdist.inference.exported_model import run_shards
from capdist.inference.given_captions import captions_by_number, read_results
from capdist.inference.run_folder import read_run_config
from capdist.metrics.coco import check_images, split_words
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
        ConfigError: if a run was not evaluated so, or there are no shards.
        ScoreError: if a file has another form, or lacks an image.
        ShardError: if the shards are not there, or have no such split.
    """
    manifest = _manifest((a, b), shards)
    refs, files = references(manifest, split), [_captions(path, split, beam) for path in (a, b)]
    first, second = (_per_image(file, refs, manifest.text) for file in files)
    found = compare(first, second, resamples)
    print(f"{manifest.name}, {split}, {len(refs.raw)} images\nA: {files[0]}\nB: {files[1]}\n")
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
    return file


def _per_image(file: Path, refs: References, text: CaptionText) -> PerImage:
    captions = captions_by_number(read_results(file), refs)
    check_images(refs.raw, captions)
    gold = refs.raw
    if not text.is_ptb:
        gold = {n: tuple(" ".join(tokens) for tokens in every) for n, every in refs.tokens.items()}
        captions = {n: " ".join(text.split(nfc(caption))) for n, caption in captions.items()}
    tokenised, candidates, _ = split_words(gold, captions, text, {})
    return PerImage.of(tokenised, candidates)
