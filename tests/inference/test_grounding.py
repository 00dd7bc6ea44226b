"""What grounding metrics compare, read from shards and decoded captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capdist.decoding.generate import Caption
from capdist.inference.grounding import Annotated, read_class_names
from capdist.metrics.grounding import Grounded, Object
from shards.schema import Phrase, Sample, ShardError
from shards.writer import write
from tests.support.shards import TinySource

BOX, OTHER = (0.0, 0.25, 0.5, 1.0), (0.5, 0.0, 1.0, 0.5)
PHRASES = (
    Phrase(1, 0, 2, 1, "cat", (BOX, OTHER)),
    Phrase(0, 0, 2, 1, "dog", (OTHER,)),
    Phrase(0, 2, 3, 2, "ball", ()),
)
TOKENS = (("a", "dog", "balls"), ("two", "cats"))


def annotated(folder: Path, names: frozenset[str] | None = None, **second: Any) -> Annotated:
    """Of two images, 64 wide and 48 high, of which the second is changed."""

    class Source(TinySource):
        def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
            for sample in super().load(split, ids):
                made = replace(sample, captions=("x", "y"), tokens=TOKENS, grounding=PHRASES)
                yield replace(made, **second) if sample.image_id == 2001 else made

    source = Source(sizes=(("test", 2),))
    return Annotated.read(write(source, folder, workers=1), "test", names)


def test_annotated_objects_equal_those_listed_by_hand(tmp_path: Path) -> None:
    found = annotated(tmp_path, grounding=())
    dog = Object(1, "dog", ((32.0, 0.0, 64.0, 24.0),))
    cats = Object(1, "cat", ((0.0, 12.0, 32.0, 48.0), (32.0, 0.0, 64.0, 24.0)))
    first = [Grounded(TOKENS[0], (dog,)), Grounded(TOKENS[1], (cats,))]
    assert found.references == {2000: first, 2001: [Grounded(words, ()) for words in TOKENS]}
    assert found.classes == {"dog", "cat"}
    words = ["a", "dog", "ball", "dogs"]
    caption = Caption(words, 0.0, [list(BOX), list(OTHER), list(OTHER), list(BOX)])
    dogs = Object(3, "dogs", ((0.0, 12.0, 32.0, 48.0),))
    assert found.objects(2000, caption) == [dog, dogs]
    # Of two predicted dogs one is right, and of dog and cat the dog is told.
    p, r = (1 / 2) / 2, 1 / 2
    nothing = Caption(["a"], 0.0, [list(BOX)])
    f1 = found.f1({2000: Caption(words, 0.0, caption.boxes), 2001: nothing})
    # The second caption has no dog: two more misses of precision in F1_all.
    assert f1["F1_loc"] == pytest.approx(200 * p * r / (p + r))
    p = (1 / 4) / 2
    assert f1["F1_all"] == pytest.approx(200 * p * r / (p + r))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grounding": None}, "sample 000000002001 of test has no grounding"),
        ({"width": 0}, "sample 000000002001 of test has no size in pixels"),
        ({"height": 0}, "sample 000000002001 of test has no size in pixels"),
    ],
)
def test_shards_without_grounding_or_size_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ShardError, match=words) as refusal:
        annotated(tmp_path, **change)
    assert "omit --grounding" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_only_listed_classes_are_annotated_and_predicted(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("dogs\n\nunicorn\n")
    found = annotated(tmp_path / "shards", read_class_names(tmp_path / "names.txt"), grounding=())
    assert found.classes == {"dog"}
    dog = Object(1, "dog", ((32.0, 0.0, 64.0, 24.0),))
    assert found.references[2000] == [Grounded(TOKENS[0], (dog,)), Grounded(TOKENS[1], ())]
    caption = Caption(["cats", "dog"], 0.0, [list(BOX), list(OTHER)])
    assert found.objects(2000, caption) == [dog]
    # A caption of a cat alone is compared with no annotated cat.
    cat = Caption(["cat"], 0.0, [list(BOX)])
    assert found.f1({2000: cat, 2001: cat}) == {"F1_all": 0.0, "F1_loc": 0.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "names.txt: no such file; expected one with names of classes"),
        (" \n", "names.txt: no names; expected those of classes, one per line"),
        ("unicorn\n", "no phrase of test is of one of the 1 classes of --classes"),
    ],
)
def test_lists_without_classes_of_the_split_are_refused(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "names.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ShardError, match=message):
        annotated(tmp_path / "shards", read_class_names(path))
