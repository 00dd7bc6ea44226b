"""Scores of captions that exist already, of any system: no model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capdist.config.base import read_json
from capdist.data.dataset import References, references
from capdist.inference.caption_scores import score_words
from capdist.inference.evaluation import print_scores
from capdist.metrics.coco import ScoreError, Scores, score
from capdist.metrics.constant import constant_caption
from capdist.reporting.report.files import CONSTANT
from shards.atomic import write_json
from shards.manifest import Manifest
from shards.outputs import check_output_file
from shards.tokenisers import CaptionText, nfc


def score_results(results: Path, shards: str, split: str, out: Path | None = None) -> None:
    """Score a file of COCO results next to the constant caption, and write the scores.

    Args:
        results: ``[{"image_id": ..., "caption": ...}, ...]``.
        shards: folder or URL of the shards that have the references.
        split: which images; captions of others are counted and left out.
        out: folder of the scores; None: that of the results.

    Raises:
        ScoreError: if the file has another form, or an image of the split has no caption or no
            reference.
        ShardError: if the shards are not there, or have no such split.
    """
    path = (out or results.parent) / f"{results.stem}-scores.json"
    check_output_file(path)
    found, manifest = read_results(results), Manifest.load(shards)
    refs = references(manifest, split)
    captions = captions_by_number(found, refs)
    if left_out := len(found) - len(captions):
        print(f"{left_out} captions are of images that are not in {split}: left out")
    text = manifest.text
    rows = {results.name: _score(refs, captions, text)}
    if "train" in {shard.split for shard in manifest.shards}:
        constant = constant_caption(references(manifest, "train").tokens)
        print(f"constant caption: {text.join(constant)!r}")
        rows[CONSTANT] = score_words(refs, dict.fromkeys(captions, constant), text)
    print_scores(f"{manifest.name}, {split}, {len(captions)} images", rows)
    write_json(path, {name: row.to_json() for name, row in rows.items()})
    print(f"scores:   {path}")


def _score(refs: References, captions: dict[int, str], text: CaptionText) -> Scores:
    """Every metric; captions are split as the references are."""
    if text.is_ptb:
        return score(refs.raw, captions)
    words = {image: text.split(nfc(caption)) for image, caption in captions.items()}
    return score_words(refs, words, text)


def captions_by_number(found: Mapping[str, str], refs: References) -> dict[int, str]:
    """Those of the references' images among captions by image id, by image number."""
    ids = {str(image): number for number, image in refs.ids.items()}
    return {ids[image]: text for image, text in found.items() if image in ids}


def read_results(path: Path) -> dict[str, str]:
    """The captions of a file of COCO results, by the image id as text.

    Raises:
        ScoreError: naming the first entry that has another form, or an image that occurs twice.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ScoreError(f"{path}: expected a list of entries with image_id and caption")
    captions: dict[str, str] = {}
    for number, entry in enumerate(entries):
        image, caption = _fields(path, number, entry)
        if image in captions:
            raise ScoreError(f"{path}: entry {number}: image {image} occurs twice; keep one entry")
        captions[image] = caption
    return captions


def _fields(path: Path, number: int, entry: Any) -> tuple[str, str]:
    fields = entry if isinstance(entry, dict) else {}
    image, caption = fields.get("image_id"), fields.get("caption")
    if type(image) not in (int, str) or not isinstance(caption, str):
        raise ScoreError(
            f"{path}: entry {number}: expected an image_id and a caption, got {str(entry)[:80]}"
        )
    return str(image), caption
