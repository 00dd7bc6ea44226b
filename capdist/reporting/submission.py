"""The zip file for the COCO captioning server."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from capdist.config.base import read_json
from capdist.errors import CapdistError
from shards.atomic import atomic_write

#: Images of the server's two splits.
IMAGES = {"val2014": 40_504, "test2014": 40_775}


class SubmissionError(CapdistError):
    """Results that the server would refuse."""


def write_submission(algorithm: str, val: Path, test: Path, out: Path) -> None:
    """Check both results files and write them into a flat zip file.

    Raises:
        SubmissionError: if the server would refuse them.
    """
    files = {"val2014": val, "test2014": test}
    checked = {split: check_results(path, IMAGES[split]) for split, path in files.items()}
    with atomic_write(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for split, entries in checked.items():
            name = f"captions_{split}_{algorithm}_results.json"
            archive.writestr(name, json.dumps(entries, ensure_ascii=False))


def check_results(path: Path, images: int) -> list[dict[str, Any]]:
    """The id and caption of every entry of a results file.

    Raises:
        SubmissionError: if it is not a list of exactly ``images`` entries, each with a caption and
            an integer id that occurs once.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise SubmissionError(f"{path}: expected a list of entries with image_id and caption")
    seen: set[int] = set()
    for number, entry in enumerate(entries):
        image = entry.get("image_id") if isinstance(entry, dict) else None
        if type(image) is not int:
            raise SubmissionError(
                f"{path}: entry {number}: image_id {image!r}, expected an integer: the COCO server "
                "accepts no other ids; caption shards built with COCO's ids"
            )
        if image in seen:
            raise SubmissionError(f"{path}: image {image} occurs twice; keep one entry")
        caption = entry.get("caption")
        if not isinstance(caption, str) or not caption.strip():
            raise SubmissionError(f"{path}: image {image}: caption {caption!r}, expected text")
        seen.add(image)
    if len(entries) != images:
        raise SubmissionError(f"{path}: {len(entries)} images, expected the split's {images}")
    return [{"image_id": e["image_id"], "caption": e["caption"]} for e in entries]
