"""F1_all and F1_loc: whether captions name objects, and localise them.

As in the evaluation of Zhou et al., "Grounded Video Description" (CVPR 2019), on Flickr30k
Entities. The words of a caption that name a class are its predicted objects, each with one box; the
objects annotated in a reference have one box or more. Predictions are compared with every reference
of the image. A predicted box is correct if its IoU with an annotated one is above 0.5.

Precision has one sample for each predicted object of a class c: whether its box is correct for the
first annotated object of c. If the reference annotates none but contains a word of that lemma,
there is no sample; otherwise the object is hallucinated. Recall has one sample for each annotated
object of c: whether the box of the first predicted object of c is correct; if there is none, the
object is not mentioned. Hallucinated and unmentioned objects are language errors: F1_all counts
them as incorrect, F1_loc leaves them out. With C the annotated classes,

    P = Σ_c mean(precision of c) / |C|,    R = Σ_c mean(recall of c) / |C|,    F1 = 2 P R / (P + R),

where a class without samples counts as 0, and 0 / 0 is 0.

Classes with the same lemma are one class. An annotated object may have several boxes (a pair of
dogs); a predicted box is then correct if it is so for one of them. With one box each, as in Zhou et
al.'s annotation, this is their definition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from capdist.metrics.coco import ScoreError

#: x1, y1, x2, y2 in pixels.
Box = tuple[float, float, float, float]

#: A box is correct if its IoU is above this.
MIN_IOU = 0.5


@dataclass(frozen=True)
class Object:
    """A word that names an object: its position, the class, and one or more boxes."""

    position: int
    name: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Grounded:
    """A reference caption: its words and its annotated objects."""

    words: tuple[str, ...]
    objects: tuple[Object, ...]


#: A class, and whether its box is correct; None for a language error.
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
        predictions: image id to the objects of its caption, each with one box; () if the caption
            names no object. All objects of an image without an entry count as incorrect.

    Raises:
        ScoreError: if no object is annotated in the images with predictions.
    """
    predicted = {image: captions for image, captions in references.items() if image in predictions}
    annotated = [
        annotation
        for captions in predicted.values()
        for caption in captions
        for annotation in caption.objects
    ]
    if not annotated:
        raise ScoreError("no reference has an annotated object; F1 of grounding needs some")
    classes = len({lemma(annotation.name) for annotation in annotated})
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
            annotated, other_words = _first(caption.objects), _unannotated(caption)
            for prediction in predictions[image]:
                name = lemma(prediction.name)
                if name in annotated:
                    yield name, _correct(prediction, annotated[name])
                elif name not in other_words:
                    yield name, None


def _recall(
    references: Mapping[int, Sequence[Grounded]], predictions: Mapping[int, Sequence[Object]]
) -> Iterator[_Sample]:
    for image, captions in references.items():
        predicted = _first(predictions.get(image, ()))
        for annotation in (each for caption in captions for each in caption.objects):
            name = lemma(annotation.name)
            if image not in predictions:
                yield name, False
            else:
                yield name, _correct(predicted[name], annotation) if name in predicted else None


def _mean_of_classes(samples: Iterable[_Sample], classes: int, language: bool) -> float:
    by_class = defaultdict(list)
    for name, correct in samples:
        if language or correct is not None:
            by_class[name].append(bool(correct))
    # A class that is annotated only in images without predictions is never correct and adds 0.
    return sum(map(fmean, by_class.values())) / classes


def _first(objects: Sequence[Object]) -> dict[str, Object]:
    """The first object of every class."""
    reverse = sorted(objects, key=lambda each: -each.position)
    return {lemma(each.name): each for each in reverse}


def _unannotated(caption: Grounded) -> set[str]:
    """Lemmas of the words that are not the name of an annotated object."""
    annotated = {each.position for each in caption.objects}
    return {lemma(word) for i, word in enumerate(caption.words) if i not in annotated}


def _correct(prediction: Object, annotation: Object) -> bool:
    return max(iou(prediction.boxes[0], box) for box in annotation.boxes) > MIN_IOU


def iou(a: Box, b: Box) -> float:
    """Intersection over union of boxes whose x2, y2 are the last pixel inside."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / (_area(a) + _area(b) - overlap)


def _area(box: Box) -> float:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
