"""The vocabulary and what is lost of the training captions, counted by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from capdist.config.base import ConfigError
from capdist.config.data import DataConfig
from capdist.data.dataset import captioned
from capdist.data.mixture import load_shards
from capdist.data.training_captions import TrainingCaptions
from capdist.vocab import Vocabulary
from shards.manifest import Manifest
from shards.schema import Sample, ShardError
from shards.writer import write
from tests.support.shards import TinySource

CAPTIONS = ("a dog", "a dog runs fast", "a cat", "a red dog", "birds")


@dataclass(frozen=True)
class OneCaptionEach(TinySource):
    sizes: tuple[tuple[str, int], ...] = (("train", len(CAPTIONS)),)

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            text = CAPTIONS[sample.image_id]
            yield replace(sample, captions=(text,), tokens=(tuple(text.split()),))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write(OneCaptionEach(), tmp_path_factory.mktemp("captions"), workers=1)


def read(shards: Manifest, min_count: int, max_words: int) -> TrainingCaptions:
    data = DataConfig(shards=str(shards.root), min_count=min_count, max_words=max_words)
    return TrainingCaptions.read(shards, data)


def test_what_is_lost_of_the_captions_is_said_in_shares(shards: Manifest) -> None:
    found = read(shards, min_count=2, max_words=2)
    assert found.vocab.words[4:] == ("a", "dog")
    assert (found.captions, found.clipped, found.single) == (5, 2, 1)
    # runs, fast, cat, red and birds
    assert found.unknown == 5 / 12
    assert replace(found, vocab=Vocabulary(["birds"])).unknown == 11 / 12
    share, clipped, unknown, single = found.lines()
    assert share == (
        "training captions: 5, 40.0 % clipped to data.max_words 2; 41.7 % of their tokens are UNK "
        "(data.min_count 2)"
    )
    assert clipped == "warning: 40.0 % of the captions lose their end; raise data.max_words"
    assert unknown.startswith("warning: 41.7 % of the tokens are UNK")
    assert single.startswith("warning: 20.0 % of the captions are one token; if they are sentences")


def test_small_shares_are_not_warned_of(shards: Manifest) -> None:
    lines = list(replace(read(shards, 1, 20), single=0).lines())
    assert len(lines) == 1
    assert "0.0 % clipped to data.max_words 20; 0.0 % of their tokens are UNK" in lines[0]


def test_a_vocabulary_of_special_tokens_only_is_refused(shards: Manifest) -> None:
    read(shards, 4, 20).check_words("x.json")
    expected = (
        r"^x\.json: data\.min_count: no word of the 5 .* 5 times; .* 'a', occurs 4 times: low"
    )
    with pytest.raises(ConfigError, match=expected):
        read(shards, 5, 20).check_words("x.json")


def test_captions_that_are_all_clipped_are_refused(shards: Manifest) -> None:
    read(shards, 1, 1).check_ends("x.json")  # one caption has one word
    clipped = replace(read(shards, 1, 1), clipped=5)
    with pytest.raises(ConfigError, match=r"x\.json: data\.max_words: all 5 training captions"):
        clipped.check_ends("x.json")


@dataclass(frozen=True)
class Shifted(TinySource):
    """Other images than those of `TinySource`."""

    name: str = "shifted"

    def splits(self) -> dict[str, Sequence[int]]:
        return {
            name: range(5000 + ids[0], 5000 + ids[-1]) for name, ids in super().splits().items()
        }


def by_reading_all(shards: Manifest, data: DataConfig) -> TrainingCaptions:
    """The same from all captions in memory, literally."""
    images = captioned(shards, "train").tokens.values()
    captions = [caption for image in images for caption in image]
    words = Counter(word for caption in captions for word in caption)
    kept = sorted(
        (word for word in words if words[word] >= data.min_count),
        key=lambda word: (-words[word], word),
    )
    return TrainingCaptions(
        Vocabulary(kept),
        data,
        captions=len(captions),
        clipped=sum(len(caption) > data.max_words for caption in captions),
        single=sum(len(caption) == 1 for caption in captions),
        words=words,
    )


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("counted", [False, True])
def test_counts_give_what_reading_all_captions_gives(
    mixed: bool, counted: bool, tmp_path: Path
) -> None:
    for name, source in (("a", TinySource()), ("b", Shifted())):
        write(source, tmp_path / name, samples_per_shard=9, workers=1)
        if not counted:
            (tmp_path / name / "train.counts.npz").unlink()
    sets = [{"shards": str(tmp_path / "a")}, {"shards": str(tmp_path / "b"), "repeats": 2.0}]
    for min_count, max_words in ((1, 3), (60, 20), (1000, 2)):
        data = DataConfig.model_validate(
            {
                "shards": sets if mixed else str(tmp_path / "a"),
                "cache_dir": str(tmp_path / "cache"),
                "min_count": min_count,
                "max_words": max_words,
            }
        )
        shards = load_shards(data)
        found, expected = TrainingCaptions.read(shards, data), by_reading_all(shards, data)
        assert found.vocab.words == expected.vocab.words
        assert list(found.lines()) == list(expected.lines())
        assert found.words.most_common() == expected.words.most_common()
        assert (found.captions, found.clipped, found.single) == (
            expected.captions,
            expected.clipped,
            expected.single,
        )


def test_an_image_id_of_two_sets_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(TinySource(name=name), tmp_path / name, workers=1)
    sets = [{"shards": str(tmp_path / name)} for name in ("a", "b")]
    data = DataConfig.model_validate({"shards": sets, "cache_dir": str(tmp_path / "cache")})
    with pytest.raises(ShardError, match=r"image id 0 occurs twice in train: .* --id-prefix"):
        TrainingCaptions.read(load_shards(data), data)
