"""F1_all and F1_loc equal hand-computed values and the definition, class by class."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

from capdist.metrics.coco import ScoreError
from capdist.metrics.grounding import Box, Grounded, Object, grounding_f1, iou, lemma

LEFT, RIGHT, WHOLE = (0.0, 0.0, 49.0, 99.0), (50.0, 0.0, 99.0, 99.0), (0.0, 0.0, 99.0, 99.0)


def reference(words: str, **objects: Box) -> Grounded:
    """A reference with boxes for some of its words; the class of a word is its lemma."""
    annotations = (Object(words.split().index(w), lemma(w), (box,)) for w, box in objects.items())
    return Grounded(tuple(words.split()), tuple(annotations))


def predicted(**objects: Box) -> list[Object]:
    return [Object(i, word, (box,)) for i, (word, box) in enumerate(objects.items())]


def scores(
    references: Mapping[int, Sequence[Grounded]], predictions: Mapping[int, Sequence[Object]]
) -> tuple[float, float]:
    f1 = grounding_f1(references, predictions)
    assert list(f1) == ["F1_all", "F1_loc"]
    return f1["F1_all"], f1["F1_loc"]


def test_correct_and_incorrect_boxes() -> None:
    references = {1: [reference("a dog and a cat", dog=LEFT, cat=RIGHT)]}
    assert scores(references, {1: predicted(dog=LEFT, cat=RIGHT)}) == (100, 100)
    assert scores(references, {1: predicted(dog=LEFT, cat=LEFT)}) == (50, 50)
    assert scores(references, {1: predicted(dog=RIGHT, cat=LEFT)}) == (0, 0)


def test_language_errors_count_only_in_f1_all() -> None:
    references = {1: [reference("a dog and a cat", dog=LEFT, cat=RIGHT)]}
    # All: precision of dog 1, of cat none, that is (1 + 0) / 2; recall the same.
    assert scores(references, {1: predicted(dog=LEFT)}) == (50, 50)
    # A hallucinated object, of a class that no reference annotates.
    assert scores(references, {1: predicted(dog=LEFT, bird=RIGHT)}) == (50, 50)
    # Its class is annotated in another image: all, precision (1 / 2 + 1) / 2, recall (1 + 1) / 2.
    references = {1: [reference("a dog", dog=LEFT)], 2: [reference("a cat", cat=LEFT)]}
    predictions = {1: predicted(dog=LEFT), 2: predicted(cat=LEFT, dog=LEFT)}
    expected = 200 * 0.75 / 1.75
    assert scores(references, predictions) == (pytest.approx(expected), 100)
    # An unmentioned object: all, precision 1 / 2, recall (1 / 2 + 0) / 2; loc, both 1 / 2.
    predictions = {1: predicted(dog=LEFT), 2: []}
    references[1].append(reference("a dog sits", dog=RIGHT))
    expected = 200 * (1 / 4) * (1 / 4) / (1 / 4 + 1 / 4)
    assert scores(references, predictions) == (expected, 25)


def test_a_word_without_annotation_does_not_count() -> None:
    references = {1: [reference("a dog and cats", dog=LEFT)], 2: [reference("a cat", cat=LEFT)]}
    correct = {1: predicted(dog=LEFT), 2: predicted(cat=LEFT)}
    assert scores(references, {**correct, 1: predicted(dog=LEFT, cat=RIGHT)}) == (100, 100)
    references[1] = [reference("a dog", dog=LEFT)]
    assert scores(references, {**correct, 1: predicted(dog=LEFT, cat=RIGHT)})[0] < 100


def test_all_references_are_compared_and_classes_have_equal_weight() -> None:
    references = {
        1: [
            reference("a dog", dog=LEFT),
            reference("dogs", dogs=RIGHT),
            reference("a dog and a cat", dog=LEFT, cat=LEFT),
            reference("nothing"),
        ]
    }
    # Loc: precision and recall of dog 2 / 3, of cat 1. All: precision of dog 2 / 4, of cat 1 / 4;
    # recall as in loc.
    p, r = (2 / 4 + 1 / 4) / 2, (2 / 3 + 1) / 2
    all_, loc = scores(references, {1: predicted(dog=LEFT, cat=LEFT)})
    assert all_ == pytest.approx(200 * p * r / (p + r))
    assert loc == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_the_first_object_of_a_class_is_compared() -> None:
    references = {1: [reference("a dog and dogs", dogs=RIGHT, dog=LEFT)]}
    # Both predictions against the first annotated dog; both annotated dogs by the first prediction.
    assert scores(references, {1: predicted(dog=LEFT, dogs=RIGHT)}) == (50, 50)
    assert scores(references, {1: predicted(dogs=RIGHT, dog=LEFT)}) == (50, 50)
    assert scores(references, {1: predicted(dog=LEFT, dogs=LEFT)}) == pytest.approx((200 / 3,) * 2)


def test_an_image_without_predictions_lowers_both() -> None:
    references = {1: [reference("a dog", dog=LEFT)], 2: [reference("a dog", dog=LEFT)]}
    # Precision 1; recall 1 / 2.
    assert scores(references, {1: predicted(dog=LEFT)}) == pytest.approx((200 / 3, 200 / 3))
    # A caption without objects is a language error.
    assert scores(references, {1: predicted(dog=LEFT), 2: []}) == pytest.approx((200 / 3, 100))
    # Classes are those annotated in images with predictions.
    references[2] = [reference("a cat", cat=LEFT)]
    assert scores(references, {1: predicted(dog=LEFT)}) == (100, 100)


def test_iou_must_exceed_a_half_and_pixels_have_a_width() -> None:
    assert iou(LEFT, WHOLE) == 0.5
    assert iou((0, 0, 0, 0), (0, 0, 1, 0)) == 0.5
    assert iou((0, 0, 9, 9), (9, 9, 18, 18)) == 1 / 199
    assert iou(LEFT, RIGHT) == 0
    references = {1: [reference("a dog", dog=LEFT)]}
    assert scores(references, {1: predicted(dog=WHOLE)}) == (0, 0)
    assert scores(references, {1: predicted(dog=(0.0, 0.0, 98.0, 99.0))}) == (100, 100)


def test_one_of_several_boxes_must_match() -> None:
    pair = Object(1, "dog", (LEFT, RIGHT))
    references = {1: [Grounded(("two", "dogs"), (pair,))]}
    for box, score in ((LEFT, 100), (RIGHT, 100), (WHOLE, 0)):
        assert scores(references, {1: predicted(dogs=box)}) == (score, score)


def test_references_without_annotations_are_refused() -> None:
    with pytest.raises(ScoreError, match="no reference has an annotated object"):
        grounding_f1({1: [reference("a dog")]}, {1: predicted(dog=LEFT)})


@pytest.mark.parametrize(
    ("word", "base"),
    [("puppies", "puppy"), ("Dogs", "dog"), ("men", "man"), ("boxes", "box"), ("bus", "bus")],
)
def test_words_are_compared_by_lemma(word: str, base: str) -> None:
    assert lemma(word) == base


def by_definition(
    references: Mapping[int, Sequence[Grounded]],
    predictions: Mapping[int, Sequence[Object]],
    mode: str,
) -> float:
    """The definition, class by class."""
    classes = {
        o.name for i in references if i in predictions for c in references[i] for o in c.objects
    }
    p = r = 0.0
    for cls in classes:
        precision: list[int] = []
        recall: list[int] = []
        for image, captions in references.items():
            for caption in captions:
                of_class = [o for o in caption.objects if o.name == cls]
                if image not in predictions:
                    recall += [0 for _ in of_class]
                    continue
                emitted = [o for o in predictions[image] if lemma(o.name) == cls]
                for prediction in emitted:
                    if of_class:
                        first = min(of_class, key=lambda o: o.position)
                        precision.append(int(iou(prediction.boxes[0], first.boxes[0]) > 0.5))
                        continue
                    annotated = [o.position for o in caption.objects]
                    others = [w for i, w in enumerate(caption.words) if i not in annotated]
                    if cls not in [lemma(word) for word in others] and mode == "all":
                        precision.append(0)
                for annotation in of_class:
                    if emitted:
                        recall.append(int(iou(emitted[0].boxes[0], annotation.boxes[0]) > 0.5))
                    elif mode == "all":
                        recall.append(0)
        p += sum(precision) / len(precision) if precision else 0
        r += sum(recall) / len(recall) if recall else 0
    p, r = p / len(classes), r / len(classes)
    return 100 * 2 * p * r / (p + r) if p + r else 0.0


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    words = ["dog", "dogs", "cat", "cats", "ball", "bird", "runs", "a"]

    def caption(annotated: float) -> Grounded:
        chosen = rng.choices(words, k=rng.randint(1, 8))
        objects = [
            Object(i, lemma(word), (rng.choice([LEFT, RIGHT, WHOLE]),))
            for i, word in enumerate(chosen)
            if word not in ("runs", "a") and rng.random() < annotated
        ]
        rng.shuffle(objects)
        return Grounded(tuple(chosen), tuple(objects))

    references = {image: [caption(0.6) for _ in range(rng.randint(1, 5))] for image in range(6)}
    references[0].append(reference("a dog", dog=LEFT))
    predictions = {
        image: sorted(caption(1).objects, key=lambda o: o.position)
        for image in range(6)
        if image == 0 or rng.random() < 0.8
    }
    all_, loc = scores(references, predictions)
    assert all_ == pytest.approx(by_definition(references, predictions, "all"))
    assert loc == pytest.approx(by_definition(references, predictions, "loc"))


def test_import_does_not_load_torch() -> None:
    script = "import sys, capdist.metrics.grounding; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
