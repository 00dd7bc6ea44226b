"""F1_all and F1_loc by hand, and against the definition written out for one mode and one class."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

from capdist.metrics.coco import ScoreError
from capdist.metrics.grounding import Box, Grounded, Object, grounding_f1, iou, lemma

LEFT, RIGHT, WHOLE = (0.0, 0.0, 49.0, 99.0), (50.0, 0.0, 99.0, 99.0), (0.0, 0.0, 99.0, 99.0)


def told(words: str, **objects: Box) -> Grounded:
    """A reference whose words, by name, are annotated with boxes; a class is its word's lemma."""
    known = (Object(words.split().index(w), lemma(w), (box,)) for w, box in objects.items())
    return Grounded(tuple(words.split()), tuple(known))


def found(**objects: Box) -> list[Object]:
    return [Object(place, word, (box,)) for place, (word, box) in enumerate(objects.items())]


def scores(
    references: Mapping[int, Sequence[Grounded]], predictions: Mapping[int, Sequence[Object]]
) -> tuple[float, float]:
    f1 = grounding_f1(references, predictions)
    assert list(f1) == ["F1_all", "F1_loc"]
    return f1["F1_all"], f1["F1_loc"]


def test_right_and_wrong_places() -> None:
    references = {1: [told("a dog and a cat", dog=LEFT, cat=RIGHT)]}
    assert scores(references, {1: found(dog=LEFT, cat=RIGHT)}) == (100, 100)
    assert scores(references, {1: found(dog=LEFT, cat=LEFT)}) == (50, 50)
    assert scores(references, {1: found(dog=RIGHT, cat=LEFT)}) == (0, 0)


def test_errors_of_language_count_in_f1_all_only() -> None:
    references = {1: [told("a dog and a cat", dog=LEFT, cat=RIGHT)]}
    # All: precision of dog 1, of cat none, that is (1 + 0) / 2; recall the same.
    assert scores(references, {1: found(dog=LEFT)}) == (50, 50)
    # An object that is not there: a class that no reference annotates.
    assert scores(references, {1: found(dog=LEFT, bird=RIGHT)}) == (50, 50)
    # One that is annotated, in another image: all, precision (1 / 2 + 1) / 2, recall (1 + 1) / 2.
    references = {1: [told("a dog", dog=LEFT)], 2: [told("a cat", cat=LEFT)]}
    predictions = {1: found(dog=LEFT), 2: found(cat=LEFT, dog=LEFT)}
    expected = 200 * 0.75 / 1.75
    assert scores(references, predictions) == (pytest.approx(expected), 100)
    # One that is not told: all, precision 1 / 2, recall (1 / 2 + 0) / 2; loc, both 1 / 2.
    predictions = {1: found(dog=LEFT), 2: []}
    references[1].append(told("a dog sits", dog=RIGHT))
    expected = 200 * (1 / 4) * (1 / 4) / (1 / 4 + 1 / 4)
    assert scores(references, predictions) == (expected, 25)


def test_a_word_that_is_not_annotated_does_not_count() -> None:
    references = {1: [told("a dog and cats", dog=LEFT)], 2: [told("a cat", cat=LEFT)]}
    right = {1: found(dog=LEFT), 2: found(cat=LEFT)}
    assert scores(references, {**right, 1: found(dog=LEFT, cat=RIGHT)}) == (100, 100)
    references[1] = [told("a dog", dog=LEFT)]
    assert scores(references, {**right, 1: found(dog=LEFT, cat=RIGHT)})[0] < 100


def test_every_reference_is_compared_and_classes_weigh_alike() -> None:
    references = {
        1: [
            told("a dog", dog=LEFT),
            told("dogs", dogs=RIGHT),
            told("a dog and a cat", dog=LEFT, cat=LEFT),
            told("nothing"),
        ]
    }
    # Loc: precision and recall of dog 2 / 3, of cat 1. All: precision of dog 2 / 4, of cat 1 / 4;
    # recall as in loc.
    p, r = (2 / 4 + 1 / 4) / 2, (2 / 3 + 1) / 2
    all_, loc = scores(references, {1: found(dog=LEFT, cat=LEFT)})
    assert all_ == pytest.approx(200 * p * r / (p + r))
    assert loc == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_the_first_of_a_class_counts() -> None:
    references = {1: [told("a dog and dogs", dogs=RIGHT, dog=LEFT)]}
    # Both predictions against the first annotated dog; both annotated dogs by the first prediction.
    assert scores(references, {1: found(dog=LEFT, dogs=RIGHT)}) == (50, 50)
    assert scores(references, {1: found(dogs=RIGHT, dog=LEFT)}) == (50, 50)
    assert scores(references, {1: found(dog=LEFT, dogs=LEFT)}) == pytest.approx((200 / 3,) * 2)


def test_an_image_without_a_prediction_is_missed_in_both() -> None:
    references = {1: [told("a dog", dog=LEFT)], 2: [told("a dog", dog=LEFT)]}
    # Precision 1; recall 1 / 2.
    assert scores(references, {1: found(dog=LEFT)}) == pytest.approx((200 / 3, 200 / 3))
    # A caption without objects is an error of language.
    assert scores(references, {1: found(dog=LEFT), 2: []}) == pytest.approx((200 / 3, 100))
    # Classes are those of images with predictions.
    references[2] = [told("a cat", cat=LEFT)]
    assert scores(references, {1: found(dog=LEFT)}) == (100, 100)


def test_a_half_is_not_enough_and_pixels_have_a_width() -> None:
    assert iou(LEFT, WHOLE) == 0.5
    assert iou((0, 0, 0, 0), (0, 0, 1, 0)) == 0.5
    assert iou((0, 0, 9, 9), (9, 9, 18, 18)) == 1 / 199
    assert iou(LEFT, RIGHT) == 0
    references = {1: [told("a dog", dog=LEFT)]}
    assert scores(references, {1: found(dog=WHOLE)}) == (0, 0)
    assert scores(references, {1: found(dog=(0.0, 0.0, 98.0, 99.0))}) == (100, 100)


def test_one_of_several_boxes_is_enough() -> None:
    pair = Object(1, "dog", (LEFT, RIGHT))
    references = {1: [Grounded(("two", "dogs"), (pair,))]}
    for place, score in ((LEFT, 100), (RIGHT, 100), (WHOLE, 0)):
        assert scores(references, {1: found(dogs=place)}) == (score, score)


def test_nothing_annotated_is_refused() -> None:
    with pytest.raises(ScoreError, match="no reference has an annotated object"):
        grounding_f1({1: [told("a dog")]}, {1: found(dog=LEFT)})


@pytest.mark.parametrize(
    ("word", "base"),
    [("puppies", "puppy"), ("Dogs", "dog"), ("men", "man"), ("boxes", "box"), ("bus", "bus")],
)
def test_lemmas(word: str, base: str) -> None:
    assert lemma(word) == base


def literal(
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
                for guess in emitted:
                    if of_class:
                        first = min(of_class, key=lambda o: o.position)
                        precision.append(int(iou(guess.boxes[0], first.boxes[0]) > 0.5))
                        continue
                    places = [o.position for o in caption.objects]
                    free = [w for at, w in enumerate(caption.words) if at not in places]
                    if cls not in [lemma(word) for word in free] and mode == "all":
                        precision.append(0)
                for known in of_class:
                    if emitted:
                        recall.append(int(iou(emitted[0].boxes[0], known.boxes[0]) > 0.5))
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
        said = rng.choices(words, k=rng.randint(1, 8))
        objects = [
            Object(at, lemma(word), (rng.choice([LEFT, RIGHT, WHOLE]),))
            for at, word in enumerate(said)
            if word not in ("runs", "a") and rng.random() < annotated
        ]
        rng.shuffle(objects)
        return Grounded(tuple(said), tuple(objects))

    references = {image: [caption(0.6) for _ in range(rng.randint(1, 5))] for image in range(6)}
    references[0].append(told("a dog", dog=LEFT))
    predictions = {
        image: sorted(caption(1).objects, key=lambda o: o.position)
        for image in range(6)
        if image == 0 or rng.random() < 0.8
    }
    all_, loc = scores(references, predictions)
    assert all_ == pytest.approx(literal(references, predictions, "all"))
    assert loc == pytest.approx(literal(references, predictions, "loc"))


def test_starts_light() -> None:
    script = "import sys, capdist.metrics.grounding; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
