"""Captions and grounding from Flickr30k Entities: two folders in one.

``Sentences/<id>.txt`` has one caption per line, with marked phrases:
``[/EN#<chain>/<type>... words]``. ``Annotations/<id>.xml`` has the image's size and its objects,
each with the coreference chains that it belongs to and possibly a box. Images and splits come from
``train.txt``, ``val.txt`` and ``test.txt``, one id per line, or from a Karpathy JSON file in the
folder, whose ``filename`` contains the id.

Tokens are the words of the line in lower case; those without a letter or digit are dropped. A
phrase is grounded if its chain has a box; chain 0 is not visual. Its head, which is also its class,
is its last word, because the types (people, clothing, ...) are too coarse. Pixels are counted from
1: 1 is subtracted from all four coordinates, as the data set's own code does.

Source: Plummer et al. 2015.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from shards.formats import Annotation, caption_format
from shards.formats.boxes import normalise_boxes
from shards.formats.karpathy import Karpathy
from shards.formats.records import read_lines
from shards.image_ids import parse_image_id
from shards.schema import Phrase, ShardError

_SPLITS = ("train", "val", "test")
_MARK = re.compile(r"\[/EN#(\d+)/\S+|\]")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@caption_format("flickr30k_entities")
class Flickr30kEntities:
    """Captions and grounding from one folder."""

    def __init__(self, path: Path) -> None:
        self._folder = path

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a folder with both folders in it."""
        return (path / "Sentences").is_dir() and (path / "Annotations").is_dir()

    def annotations(self) -> list[Annotation]:
        """All images of the splits.

        Raises:
            ShardError: if there are no splits, or naming a file that is missing or not valid.
        """
        return [self._annotation(*image) for image in self._images()]

    def _images(self) -> Iterator[tuple[str, str, str]]:
        """Name, split and position of every image."""
        lists = {split: self._folder / f"{split}.txt" for split in _SPLITS}
        files = sorted(self._folder.glob("*.json"))
        if all(file.is_file() for file in lists.values()):
            for split, file in lists.items():
                for number, line in enumerate(read_lines(file), 1):
                    for name in line.split():
                        yield name, split, f"{file}: line {number}"
        elif len(files) == 1:
            for image in Karpathy(files[0]).annotations():
                yield Path(image.file_name).stem, image.split, image.position
        else:
            raise ShardError(
                f"{self._folder}: no splits; put train.txt, val.txt and test.txt there, or one "
                "Karpathy JSON file (dataset_flickr30k.json)"
            )

    def _annotation(self, image: str, split: str, position: str) -> Annotation:
        if "/" in image or not image.isprintable():
            raise ShardError(f"{position}: image {image!r}, expected the name of a file")
        sentences = self._folder / "Sentences" / f"{image}.txt"
        objects = self._folder / "Annotations" / f"{image}.xml"
        for path in (sentences, objects):
            if not path.is_file():
                raise ShardError(f"{path}: no such file, though split {split} lists image {image}")
        width, height, boxes = _read_objects(objects)
        captions: list[str] = []
        tokens: list[tuple[str, ...]] = []
        phrases: list[Phrase] = []
        for line in read_lines(sentences):
            if line.strip():
                words, marked = _parse_sentence(str(sentences), line)
                phrases += _grounded_phrases(len(captions), words, marked, boxes)
                captions.append(" ".join(_MARK.sub(" ", line).split()))
                tokens.append(tuple(words))
        return Annotation(
            parse_image_id(image),
            f"{image}.jpg",
            split,
            tuple(captions),
            tuple(tokens),
            width,
            height,
            tuple(phrases),
            position,
        )


def _parse_sentence(where: str, line: str) -> tuple[list[str], list[tuple[int, int, int]]]:
    """The words of a line; chain, first word and last word + 1 of each marked phrase."""
    words: list[str] = []
    marked, chain, start, position = [], None, 0, 0
    for mark in [*_MARK.finditer(line), None]:
        text = line[position : mark.start() if mark else None]
        words += [word for word in text.lower().split() if any(map(str.isalnum, word))]
        opens = mark is not None and mark.group() != "]"
        if (mark is None or opens) == (chain is not None):
            raise ShardError(f"{where}: unbalanced brackets in {line!r}; download it again")
        if mark is None:
            break
        if chain is not None and len(words) > start:
            marked.append((chain, start, len(words)))
        chain, start, position = int(mark[1]) if opens else None, len(words), mark.end()
    return words, marked


def _grounded_phrases(
    caption: int,
    words: list[str],
    marked: list[tuple[int, int, int]],
    boxes: dict[int, list[tuple[float, float, float, float]]],
) -> Iterator[Phrase]:
    for chain, start, end in marked:
        if chain != 0 and chain in boxes:
            yield Phrase(caption, start, end, end - 1, words[end - 1], tuple(boxes[chain]))


class _RefuseDoctype(ElementTree.TreeBuilder):
    """Refuses document types, because their entities can expand to any size."""

    def doctype(self, name: str, *_: str | None) -> None:
        """Called when a document type is declared, before its entities."""
        raise ValueError(f"has a document type, {name}")


def _read_objects(
    path: Path,
) -> tuple[int, int, dict[int, list[tuple[float, float, float, float]]]]:
    """Width and height of an image, and the boxes of its chains in [0, 1]."""
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_RefuseDoctype())).getroot()
        width, height = (int(root.findtext(f"size/{name}", "")) for name in ("width", "height"))
        boxes = defaultdict(list)
        for element in root.iter("object"):
            box = element.find("bndbox")
            if box is not None:
                pixels = [float(box.findtext(corner, "")) - 1 for corner in _CORNERS]
                normalised = normalise_boxes(str(path), [pixels], width, height)[0].tolist()
                for name in element.iter("name"):
                    boxes[int(name.text or "")].append(tuple(normalised))
    except (ElementTree.ParseError, ArithmeticError, ValueError) as error:
        if isinstance(error, ShardError):
            raise
        raise ShardError(f"{path}: not a valid annotation ({error}); download it again") from error
    return width, height, boxes
