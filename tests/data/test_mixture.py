"""Several folders of shards as one set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pytest

from capdist.config.base import validate
from capdist.config.data import DataConfig, ShardSet
from capdist.config.stage import BatchConfig
from capdist.data.dataset import (
    captioned,
    evaluation_batches,
    members,
    references,
    training_batches,
)
from capdist.data.mixture import describe, load_shards, merge_manifests
from capdist.data.rank_plan import Ranks
from capdist.vocab import Vocabulary
from shards.concept_files import CONCEPTS, ConceptFile, ConceptSet, write_concept_file
from shards.feature_spec import FeatureSpec
from shards.manifest import Manifest
from shards.schema import Sample, ShardError
from shards.writer import write
from tests.support.shards import GroundedSource, TinySource, count_words, tiny_sample

IMAGES, ALONE = 8, Ranks()
#: Of 19 and 30 images: 48 and 9 in every epoch.
REPEATS = (2.5, 0.3)


@dataclass(frozen=True)
class Shifted(TinySource):
    """Other images: ids from ``first`` on."""

    sizes: tuple[tuple[str, int], ...] = (("train", 30), ("val", 4))
    first: int = 5000
    extractor: str = "tiny-v1"

    @property
    def features(self) -> FeatureSpec:
        return FeatureSpec(self.extractor, self.dim, 5)

    def splits(self) -> dict[str, Sequence[int]]:
        return {
            name: range(ids.start + self.first, ids.stop + self.first)
            for name, ids in super().splits().items()
        }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("sets")
    few = TinySource(sizes=(("train", 19), ("val", 7), ("test", 5)), name="few")
    write(few, root / "a", samples_per_shard=8, workers=1)
    write(Shifted(name="many"), root / "b", samples_per_shard=4, workers=1)
    return str(root / "a"), str(root / "b")


@pytest.fixture(scope="module")
def data(folders: tuple[str, str]) -> DataConfig:
    sets = tuple(
        ShardSet(shards=folder, repeats=r) for folder, r in zip(folders, REPEATS, strict=True)
    )
    return DataConfig(shards=sets, min_count=1, lanes=8, window=4, workers=0)


@pytest.fixture(scope="module")
def manifest(data: DataConfig) -> Manifest:
    return load_shards(data)


def steps(
    manifest: Manifest, data: DataConfig, epoch: int, ranks: Ranks = ALONE, consumed: int = 0
) -> list[list[str]]:
    """Keys of a rank's steps."""
    vocab = count_words(manifest, 1)
    sizes = BatchConfig(images=IMAGES, micro=IMAGES // ranks.world)
    batches = training_batches(manifest, data, sizes, vocab, ranks, 1)
    return [list(chain(*(b.keys for b in step))) for step in batches.epoch(epoch, consumed)]


def key(number: int) -> str:
    return f"{number:012d}"


def test_every_epoch_has_the_share_of_each_set(manifest: Manifest, data: DataConfig) -> None:
    few, many = [key(n) for n in range(19)], [key(n) for n in range(5000, 5030)]
    total: Counter[str] = Counter()
    for epoch in range(10):
        seen = Counter(chain(*steps(manifest, data, epoch)))
        assert set(seen) <= {*few, *many}
        assert sum(seen[k] for k in few) == round(2.5 * 19) == 48
        assert sum(seen[k] for k in many) == round(0.3 * 30) == 9
        assert all(seen[k] in (2, 3) for k in few)
        assert all(seen[k] in (0, 1) for k in many)
        total += seen
    assert {total[k] for k in few} == {480 // 19, 480 // 19 + 1}
    assert {total[k] for k in many} == {90 // 30}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_same_global_batches(
    manifest: Manifest, data: DataConfig, world: int
) -> None:
    whole = steps(manifest, data, 3)
    ranks = [steps(manifest, data, 3, Ranks(rank, world)) for rank in range(world)]
    assert [len(step) for step in whole] == [IMAGES] * 7 + [1]
    assert ranks == [[step[rank::world] for step in whole] for rank in range(world)]


def test_resume_continues_after_consumed_samples(manifest: Manifest, data: DataConfig) -> None:
    whole = steps(manifest, data, 2)
    for step in range(len(whole) + 1):
        assert steps(manifest, data, 2, consumed=step * IMAGES) == whole[step:]


def test_a_list_of_one_set_is_that_set(folders: tuple[str, str], data: DataConfig) -> None:
    plain = data.model_copy(update={"shards": folders[0]})
    listed = data.model_copy(update={"shards": (ShardSet(shards=folders[0]),)})
    expected = steps(load_shards(plain), plain, 1)
    assert steps(load_shards(listed), listed, 1) == expected


def test_a_proportion_equals_the_repeats_that_it_amounts_to(
    folders: tuple[str, str], data: DataConfig
) -> None:
    def found(**part: float) -> tuple[str, list[list[list[str]]]]:
        sets = [{"shards": folders[0]}, {"shards": folders[1], **part}]
        mixed = validate(DataConfig, {**data.model_dump(), "shards": sets}, "c.json")
        assert validate(DataConfig, json.loads(mixed.model_dump_json()), "config.json") == mixed
        manifest = load_shards(mixed)
        (_, line) = describe(manifest, mixed.shards)
        return line, [steps(manifest, mixed, epoch, consumed=8) for epoch in range(4)]

    assert found(proportion=9 / 28) == found(repeats=9 / 30)
    assert found(proportion=0.32)[0].endswith(
        "b: 9 of 28 images of an epoch (32.1 %); the set has 30"
    )


def test_other_splits_are_the_first_sets(manifest: Manifest, data: DataConfig) -> None:
    vocab = count_words(manifest, 1)
    for split, first, count in (("val", 1000, 7), ("test", 2000, 5)):
        batches = evaluation_batches(manifest, split, data, 3, vocab, Ranks())
        keys = [k for batch in chain(*batches.epoch(0)) for k in batch.keys]
        assert sorted(keys) == [key(n) for n in range(first, first + count)]


def test_words_are_counted_once_per_image(manifest: Manifest) -> None:
    expected: Counter[str] = Counter()
    for number in (*range(19), *range(5000, 5030)):
        expected.update(chain(*tiny_sample(number).tokens))
    train = captioned(manifest, "train")
    found = Counter(word for image in train.tokens.values() for word in chain(*image))
    assert found == expected
    assert len(train.raw) == 49
    assert set(count_words(manifest, 1).words[4:]) == set(expected)


def test_the_merged_manifest_names_both_sets(manifest: Manifest, data: DataConfig) -> None:
    assert manifest.name == "few + many"
    features = manifest.features
    assert (features.name, features.dim, features.max_regions) == ("tiny-v1", 6, 5)
    lines = describe(manifest, data.shards)
    assert lines[0].endswith("a: 48 of 57 images of an epoch (84.2 %); the set has 19")
    assert lines[1].endswith("b: 9 of 57 images of an epoch (15.8 %); the set has 30")
    assert describe(manifest, "one folder") == []
    few, many = (Manifest.load(part.shards) for part in data.shards)
    wide = replace(many, features=replace(many.features, max_regions=9))
    assert merge_manifests([few, wide]).features.max_regions == 9


def test_a_recorded_config_reads_back(data: DataConfig) -> None:
    assert validate(DataConfig, json.loads(data.model_dump_json()), "config.json") == data


def union(*folders: Path | str) -> Manifest:
    return load_shards(DataConfig(shards=tuple(ShardSet(shards=str(f)) for f in folders)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            Shifted(dim=5),
            r"b: features 'tiny-v1' of width 5, expected 'tiny-v1' of width 6 as",
        ),
        (Shifted(extractor="other"), r"b: features 'other' of width 6, expected 'tiny-v1'"),
        (Shifted(class_names=("dog",)), r"b: its 1 class names are not the 0 of .*a; build both"),
        (Shifted(sizes=(("val", 3),)), r"b/manifest.json: no split 'train', expected one of val"),
    ],
)
def test_sets_that_differ_are_refused(
    folders: tuple[str, str], tmp_path: Path, source: Shifted, message: str
) -> None:
    write(source, tmp_path / "b", workers=1)
    with pytest.raises(ShardError, match=message):
        union(folders[0], tmp_path / "b")


def test_other_scales_or_distributions_are_refused(data: DataConfig) -> None:
    few, many = (Manifest.load(part.shards) for part in data.shards)
    narrow = replace(many, features=replace(many.features, scale=(0.1,) * 6))
    with pytest.raises(ShardError, match=r"b: int8 regions with other scales than in .*a; build"):
        merge_manifests([few, narrow])
    far = replace(many.features.fingerprint, mean=(9.0,) * 6)
    other = replace(many, features=replace(many.features, fingerprint=far))
    message = r"b: features 'tiny-v1' are distributed differently .* data\.accept_features=true"
    with pytest.raises(ShardError, match=message):
        merge_manifests([few, other])
    assert len(merge_manifests([few, other], accept_features=True).shards) == len(
        merge_manifests([few, many]).shards
    )


def test_an_image_id_in_two_sets_is_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    class Renamed(Shifted):
        def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
            for sample in super().load(split, ids):
                yield replace(sample, image_id=sample.image_id - 4990)

    write(Renamed(), tmp_path / "b", workers=1)
    message = (
        r"a \+ .*b: image id 10 occurs twice in train: sample 0+10 in .*/a/train-00001.tar and "
        r"sample 0+5000 in .*/b/train-00000.tar; .* --id-prefix"
    )
    with pytest.raises(ShardError, match=message):
        references(union(folders[0], tmp_path / "b"), "train")


def test_a_set_listed_twice_is_refused(folders: tuple[str, str]) -> None:
    with pytest.raises(ShardError, match=r"a/\.\./a: listed twice in data\.shards"):
        union(folders[0], f"{folders[0]}/../a")


def test_merged_sets_have_the_common_members(folders: tuple[str, str], tmp_path: Path) -> None:
    class Grounded(Shifted, GroundedSource):
        class_names = ()

    write(Grounded(), tmp_path / "b", workers=1)
    alone = members(Manifest.load(tmp_path / "b"), "train")
    assert alone == {"json", "regions", "boxes", "concepts", "grounding", "classes"}
    for sets in ([folders[0], tmp_path / "b"], [tmp_path / "b", folders[0]]):
        assert members(union(*sets), "train") == alone - {"grounding", "classes"}


def predict(folder: Path | str, detector: str, kept: int) -> None:
    """Concepts beside the tars: every sample's own key as its word."""
    manifest, files = Manifest.load(folder), dict[str, ConceptFile]()
    for shard in manifest.shards:
        found = {entry.key: ((f"word{entry.key}", 0.5),) for entry in manifest.index(shard)}
        files[shard.name] = write_concept_file(manifest.root, shard.name, shard.sha256, found)
    ConceptSet(manifest.root, detector, {}, kept, files).save()


def test_concept_files_of_two_detectors_are_refused(data: DataConfig, tmp_path: Path) -> None:
    sets = [tmp_path / "a", tmp_path / "b"]
    write(TinySource(sizes=(("train", 5), ("val", 3))), sets[0], samples_per_shard=2, workers=1)
    write(Shifted(sizes=(("train", 6), ("val", 2))), sets[1], samples_per_shard=2, workers=1)
    predict(sets[0], "d1", 3)
    with pytest.raises(ShardError, match=r"b: concepts of the tars, expected those of detector"):
        union(*sets)
    predict(sets[1], "d2", 5)
    with pytest.raises(
        ShardError, match=r"b: concepts of detector d2, expected those of detector d1"
    ):
        union(*sets)
    predict(sets[1], "d1", 5)
    manifest = union(*sets)
    assert manifest.concepts is not None
    assert (manifest.concepts.detector, manifest.concepts.kept) == ("d1", 5)
    plain = data.model_copy(update={"shards": ""})
    keys = [entry.key for shard in manifest.split("train") for entry in manifest.index(shard)]
    vocab = Vocabulary([f"word{key}" for key in keys])
    batches = training_batches(manifest, plain, BatchConfig(images=4, micro=4), vocab, Ranks(), 1)
    found = {
        key: ids
        for batch in chain.from_iterable(batches.epoch(0))
        for key, ids in zip(batch.keys, batch.concepts.tolist(), strict=True)
    }
    assert found == {key: [vocab.id(f"word{key}")] for key in keys}
    assert len(keys) == 11
    (sets[1] / CONCEPTS).unlink()
    with pytest.raises(ShardError, match="b: concepts of the tars"):
        union(*sets)


def test_concepts_of_a_run_stay_valid_when_its_sets_are_moved(tmp_path: Path) -> None:
    sets = [tmp_path / "a", tmp_path / "b"]
    write(TinySource(sizes=(("train", 5), ("val", 3))), sets[0], samples_per_shard=2, workers=1)
    write(Shifted(sizes=(("train", 6), ("val", 2))), sets[1], samples_per_shard=2, workers=1)
    files = {
        shard.name: write_concept_file(tmp_path, shard.name, shard.sha256, {shard.name: ()})
        for shard in union(*sets).shards
    }
    ConceptSet(tmp_path, "d1", {}, 1, files).save()
    moved = union(*(folder.rename(tmp_path / f"moved-{folder.name}") for folder in sets))
    found = moved.with_concepts(ConceptSet.load(tmp_path)).concepts
    assert found is not None
    for shard in moved.shards:
        assert found.read(shard.name) == {shard.name.replace("moved-", ""): ()}
