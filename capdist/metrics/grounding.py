"""F1_all and F1_loc: whether the words that name objects lie where the objects do.

As the evaluation of Zhou et al., "Grounded Video Description" (CVPR 2019), defines them on
Flickr30k Entities. A caption's words that name a class are its predicted objects, each with a box;
what a reference speaks of are its annotated ones. An image's predicted objects are compared with
every one of its references. A box is right if its IoU with the annotated one is above 0.5.

Precision, of each predicted object of class c: right or wrong against the first annotated object
of c; where the reference annotates none but has a word of that lemma, it does not count; else it
is an object that is not there. Recall, of each annotated object of class c: right or wrong by the
first predicted object of c; else it is an object that is not told. F1_all takes both kinds of
errors of language as wrong, F1_loc leaves them out. With C the annotated classes,

    P = Σ_c mean(precision of c) / |C|,    R = Σ_c mean(recall of c) / |C|,    F1 = 2 P R / (P + R),

where a class without samples counts as 0, and so does 0 / 0.

Classes are compared by lemma, so that those with one lemma are one class. An annotated object that
has several boxes, as a pair of dogs has, is found by a box that is right for one of them; with one
box each, as in Zhou et al.'s annotation, that is their definition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from capdist.metrics.coco import ScoreError

#: x1, y1, x2, y2 in pixels.
Box = tuple[float, float, float, float]

#: A box is right if its IoU is above this.
LEAST_IOU = 0.5


@dataclass(frozen=True)
class Object:
    """A word that names an object: its position, the class, and one or more boxes."""

    position: int
    name: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Grounded:
    """A reference caption's words, and the objects that are annotated in it."""

    words: tuple[str, ...]
    objects: tuple[Object, ...]


#: A class, and whether a box of it was right; None for an error of language.
_Sample = tuple[str, bool | None]


def lemma(word: str) -> str:
    """The English dictionary form: "puppies" to "puppy"."""
    from simplemma import lemmatize

    return lemmatize(word.lower(), lang="en")


def grounding_f1(
    references: Mapping[int, Sequence[Grounded]], predictions: Mapping[int, Sequence[Object]]
) -> dict[str, float]:
    """``F1_all`` and ``F1_loc``, × 100.

    Args:
        references: image id to its captions.
        predictions: image id to the objects of the image's caption, each with one box. In an image
            that is not there everything is missed; one whose caption names no object has ().

    Raises:
        ScoreError: if no object is annotated in the images with predictions.
    """
    predicted = {image: captions for image, captions in references.items() if image in predictions}
    told = [
        known
        for captions in predicted.values()
        for caption in captions
        for known in caption.objects
    ]
    if not told:
        raise ScoreError("no reference has an annotated object, so there is no F1 of grounding")
    classes = len({lemma(known.name) for known in told})
    precision = list(_precision(predicted, predictions))
    recall = list(_recall(references, predictions))

    def f1(*, language: bool) -> float:
        p, r = (_mean_of_classes(samples, classes, language) for samples in (precision, recall))
        return 200 * p * r / (p + r) if p + r else 0.0

    return {"F1_all": f1(language=True), "F1_loc": f1(language=False)}


def _precision(
    references: Mapping[int, Sequence[Grounded]], predictions: Mapping[int, Sequence[Object]]
) -> Iterator[_Sample]:
    for image, captions in references.items():
        for caption in captions:
            known, unknown = _first(caption.objects), _unannotated(caption)
            for found in predictions[image]:
                name = lemma(found.name)
                if name in known:
                    yield name, _right(found, known[name])
                elif name not in unknown:
                    yield name, None


def _recall(
    references: Mapping[int, Sequence[Grounded]], predictions: Mapping[int, Sequence[Object]]
) -> Iterator[_Sample]:
    for image, captions in references.items():
        found = _first(predictions.get(image, ()))
        for known in (known for caption in captions for known in caption.objects):
            name = lemma(known.name)
            if image not in predictions:
                yield name, False
            else:
                yield name, _right(found[name], known) if name in found else None


def _mean_of_classes(samples: Iterable[_Sample], classes: int, language: bool) -> float:
    by_class = defaultdict(list)
    for name, right in samples:
        if language or right is not None:
            by_class[name].append(bool(right))
    # A class that no predicted image has annotated was never right, and so adds nothing.
    return sum(map(fmean, by_class.values())) / classes


def _first(objects: Sequence[Object]) -> dict[str, Object]:
    """The first object of every class."""
    last_first = sorted(objects, key=lambda thing: -thing.position)
    return {lemma(thing.name): thing for thing in last_first}


def _unannotated(caption: Grounded) -> set[str]:
    """Lemmas of the words that no annotated object is named by."""
    annotated = {known.position for known in caption.objects}
    return {lemma(word) for place, word in enumerate(caption.words) if place not in annotated}


def _right(found: Object, known: Object) -> bool:
    return max(iou(found.boxes[0], box) for box in known.boxes) > LEAST_IOU


def iou(a: Box, b: Box) -> float:
    """Intersection over union of boxes that reach to the far side of their last pixel."""
    wide = min(a[2], b[2]) - max(a[0], b[0]) + 1
    high = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(0.0, wide) * max(0.0, high)
    return shared / (_area(a) + _area(b) - shared)


def _area(box: Box) -> float:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
