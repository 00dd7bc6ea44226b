"""The words that captions lack, against those that a probe finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.features import by_size, by_word, measure
from benchmarks.load_corpus import SyntheticSource
from capdist.errors import CapdistError
from capdist.inference.grounding import Annotated
from shards.manifest import Manifest
from shards.scenes import SceneSource
from shards.writer import write


def test_words_are_sorted_by_the_probe_and_the_share_is_of_agreed_mentions() -> None:
    # Word k is ranked perfectly for k = 3 and inverted for k = 0; captions say it in that order.
    counts = np.array([[3, 3, 3, 3], [4, 4, 4, 4], [0, 0, 0, 1], [0, 0, 0, 0]], float)
    scores = np.array([[1, 4, 4, 4], [2, 1, 3, 3], [3, 3, 1, 2], [4, 2, 2, 1]], float)
    said = np.array([[0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]], float)
    rows, correlation = by_word(scores, counts, said)
    precision = [(1 / 3 + 2 / 4) / 2, (1 + 2 / 4) / 2, 1, 1]
    assert [row["probe's AP"] for row in rows.values()] == pytest.approx(
        [100 * value for value in precision]
    )
    assert [row["share said %"] for row in rows.values()] == [0, 50, 50, 100]
    assert [row["mentions"] for row in rows.values()] == [2, 2, 2, 2]
    # Ranks 0, 1, 2.5, 2.5 and 0, 1.5, 1.5, 3.
    expected = np.corrcoef([0, 1, 2.5, 2.5], [0, 1.5, 1.5, 3])[0, 1]
    assert correlation == pytest.approx(expected)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write(SceneSource(0, 8, 6, 0), tmp_path_factory.mktemp("features") / "scenes")


def test_captions_that_say_everything_name_objects_of_all_sizes(scenes: Manifest) -> None:
    everything = {
        image: {known.name for caption in captions for known in caption.objects}
        for image, captions in Annotated.read(scenes, "val").references.items()
    }
    rows = by_size(scenes, "val", everything)
    assert [row["share named %"] for row in rows.values()] == [100, 100, 100]
    nothing = by_size(scenes, "val", {image: set() for image in everything})
    assert [row["share named %"] for row in nothing.values()] == [0, 0, 0]
    assert [row["objects"] for row in rows.values()] == [row["objects"] for row in nothing.values()]


def test_shards_without_a_probe_show_objects_alone(scenes: Manifest, tmp_path: Path) -> None:
    captions = tmp_path / "captions.json"
    images = Annotated.read(scenes, "val").references
    captions.write_text(json.dumps([{"image_id": i, "caption": "nothing"} for i in images]))
    figures = measure(str(scenes.root), "val", captions)
    assert not figures.quarters
    assert [row["share named %"] for row in figures.sizes.values()] == [0, 0, 0]
    assert "average precision" not in figures.page("command") + figures.table()


def test_shards_without_a_probe_and_objects_are_refused(tmp_path: Path) -> None:
    plain = write(SyntheticSource(4, dim=8), tmp_path / "plain")
    with pytest.raises(CapdistError, match="build shards with --concepts N"):
        measure(str(plain.root), "train", Path("none.json"))
