"""Describes one sample in text and draws its boxes (not the standard library's `inspect`)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shards.feature_sets import decode_set
from shards.manifest import Manifest
from shards.schema import Array, Phrase, Sample, ShardError, decode
from shards.tar import read_tar

_BOXES_SHOWN = 5
_CLASSES_SHOWN = 3
# Small pictures are enlarged to this width, so that names fit into boxes.
_MIN_WIDTH = 480
_COLOURS = ("red", "lime", "blue", "orange", "magenta", "cyan")


def find_sample(
    path: Path, split: str | None, key: str | None, number: int
) -> tuple[Sample, Manifest | None]:
    """A sample, and the manifest that lists its tar if there is one.

    Args:
        path: a folder of shards, or one tar.
        split: search only this split of the folder.
        key: the sample's key or image id; if None, ``number`` chooses.
        number: position of the sample, from 0.

    Raises:
        ShardError: if there is no such sample.
    """
    tar_paths, manifest = _find_tars(path, split)
    for position, sample in enumerate(_read_samples(tar_paths, manifest)):
        names = (sample.key, str(sample.image_id))
        if key in names if key is not None else position == number:
            return sample, manifest
    request = f"with key {key!r}" if key is not None else f"number {number} (the first is 0)"
    where = f"{path}, split {split}" if split else str(path)
    raise ShardError(f"{where}: no sample {request}; choose another --key or --number")


def describe_further(manifest: Manifest, sample: Sample) -> Iterator[str]:
    """Lines on the further feature sets of a sample.

    Raises:
        ShardError: if a tar of a set is missing or damaged.
    """
    for found in manifest.further:
        for shard in manifest.split(sample.split):
            for entry, members in read_tar(manifest.tar_path(found.tar_of(shard))):
                if entry.key == sample.key:
                    features = decode_set(sample.key, members, found.spec)
                    stored = found.spec.dequantize(features.regions) if features else None
                    yield from _regions(found.name, stored)


def describe(sample: Sample, class_names: Sequence[str]) -> str:
    """Everything that a sample holds in its own tar, as lines of text."""
    return "\n".join(
        [
            *_heading(sample),
            *_captions(sample),
            *_concepts(sample),
            *_regions("regions", sample.regions),
            *_boxes(sample, class_names),
            *_relations(sample),
            *_grounding(sample),
        ]
    )


def draw(sample: Sample, class_names: Sequence[str], path: Path) -> None:
    """Write the sample's picture as PNG, with its first boxes and their likeliest class.

    Raises:
        ShardError: if the sample has no picture, or one that can't be read.
    """
    if sample.picture is None:
        raise ShardError(f"sample {sample.key}: no picture (member png); leave out --picture")
    from PIL import Image, ImageDraw

    try:
        with Image.open(io.BytesIO(sample.picture), formats=["PNG"]) as file:
            scale = max(1, -(-_MIN_WIDTH // file.width))
            image = file.convert("RGB").resize((file.width * scale, file.height * scale))
    except Exception as error:  # pillow raises many kinds, one for a picture that is too large
        raise ShardError(f"sample {sample.key}: member png is not a picture ({error})") from error
    canvas = ImageDraw.Draw(image)
    for number, box in enumerate(sample.boxes[:_BOXES_SHOWN]):
        x1, y1, x2, y2 = (box * [*image.size, *image.size]).tolist()
        colour = _COLOURS[number % len(_COLOURS)]
        canvas.rectangle((x1, y1, x2, y2), outline=colour)
        canvas.text(
            (x1 + 4, y1 + 2 + 11 * number), _short_label(sample, number, class_names), fill=colour
        )
    image.save(path, format="PNG")


def _find_tars(path: Path, split: str | None) -> tuple[list[Path], Manifest | None]:
    """The tars to search; a single tar gets the manifest of its folder if that lists it."""
    if path.is_dir():
        manifest = Manifest.load(path)
        shards = manifest.split(split) if split else manifest.shards
        return [path / shard.name for shard in shards], manifest
    if not path.is_file():
        raise ShardError(f"{path}: no such folder or tar; check the path")
    if split:
        raise ShardError(f"{path}: --split needs a folder, not one tar; leave out --split")
    try:
        manifest = Manifest.load(path.parent)
    except ShardError:
        return [path], None
    return [path], manifest if path.name in manifest.sha256_by_shard else None


def _read_samples(tar_paths: Sequence[Path], manifest: Manifest | None) -> Iterator[Sample]:
    for tar in tar_paths:
        concepts = manifest.concepts.read(tar.name) if manifest and manifest.concepts else {}
        for entry, members in read_tar(tar):
            sample = decode(entry.key, members)
            yield replace(
                sample,
                concepts=concepts.get(entry.key, sample.concepts),
                regions=manifest.features.dequantize(sample.regions)
                if manifest
                else sample.regions,
            )


def _heading(sample: Sample) -> Iterator[str]:
    size = f"{sample.width} × {sample.height}" if sample.width else "size unknown"
    picture = "with its picture" if sample.picture is not None else "no picture"
    yield f"sample {sample.key}: image {sample.image_id}, {size}, split {sample.split}, {picture}"


def _captions(sample: Sample) -> Iterator[str]:
    yield f"captions: {len(sample.captions) or 'none'}"
    for number, (caption, tokens) in enumerate(zip(sample.captions, sample.tokens, strict=True)):
        yield f"  {number}  {caption}"
        yield f"     {len(tokens)} tokens: {' '.join(tokens)}"


def _concepts(sample: Sample) -> Iterator[str]:
    if sample.concepts is None:
        yield "concepts: none"
    else:
        pairs = ", ".join(f"{word} {score:.2f}" for word, score in sample.concepts)
        yield f"concepts: {len(sample.concepts)}: {pairs}"


def _regions(name: str, stored: Array | None) -> Iterator[str]:
    if stored is None:
        yield f"{name}: none"
        return
    regions = stored.astype(np.float32)
    yield f"{name}: {regions.shape[0]} of width {regions.shape[1]}, {stored.dtype}"
    yield (
        f"  mean {regions.mean():.3f}, standard deviation {regions.std():.3f}, "
        f"minimum {regions.min():.3f}, maximum {regions.max():.3f}, "
        f"zeros {np.mean(regions == 0):.1%}"
    )


def _relations(sample: Sample) -> Iterator[str]:
    if sample.relations is not None:
        edges = (" ".join(map(str, edge)) for edge in sample.relations.tolist())
        known = ", ".join(edges) or "none"
        yield f"relations (subject, object, predicate): {known}"


def _boxes(sample: Sample, class_names: Sequence[str]) -> Iterator[str]:
    shown = sample.boxes[:_BOXES_SHOWN]
    yield f"boxes: the first {len(shown)}"
    for number, box in enumerate(shown):
        yield f"  {number}  {_describe_box(box)}: {_label(sample, number, class_names)}"


def _describe_box(box: Array | Sequence[float]) -> str:
    """A box in words: the position of its centre, and its edges in per cent of the image."""
    x1, y1, x2, y2 = (float(value) for value in box)
    vertical = ("top", "middle", "bottom")[_third((y1 + y2) / 2)]
    horizontal = ("left", "centre", "right")[_third((x1 + x2) / 2)]
    return f"{vertical} {horizontal} (x {x1:.0%} to {x2:.0%}, y {y1:.0%} to {y2:.0%})"


def _third(coordinate: float) -> int:
    return min(int(coordinate * 3), 2)


def _label(sample: Sample, number: int, class_names: Sequence[str]) -> str:
    if sample.classes is None:
        return "no classes"
    likeliest = sample.classes[number][:_CLASSES_SHOWN].tolist()
    return ", ".join(f"{_class_name(i, class_names)} {prob:.2f}" for i, prob in likeliest)


def _short_label(sample: Sample, number: int, class_names: Sequence[str]) -> str:
    """A box's number, as in `describe`, and its likeliest class."""
    if sample.classes is None:
        return str(number)
    return f"{number} {_class_name(int(sample.classes['id'][number, 0]), class_names)}"


def _class_name(number: int, class_names: Sequence[str]) -> str:
    return class_names[number] if 0 <= number < len(class_names) else f"class {number}"


def _grounding(sample: Sample) -> Iterator[str]:
    if sample.grounding is None:
        yield "grounding: none"
        return
    yield f"grounding: {len(sample.grounding)} phrases"
    for phrase in sample.grounding:
        text = _describe_phrase(phrase, sample.tokens[phrase.caption])
        yield f"  caption {phrase.caption}: {text}"


def _describe_phrase(phrase: Phrase, tokens: Sequence[str]) -> str:
    words = " ".join(tokens[phrase.start : phrase.end])
    boxes = "; ".join(_describe_box(box) for box in phrase.boxes)
    return f"'{words}', head '{tokens[phrase.head]}', class {phrase.class_name}: {boxes}"
