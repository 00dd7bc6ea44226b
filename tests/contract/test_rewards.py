"""The contract of rewards; it tests every registered reward."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from capdist.metrics.coco import ScoreError
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.rewards.base import build, registered
from capdist.vocab import EOS, PAD, Vocabulary
from tests.support.processes import environment
from tests.support.rewards import (
    VOCABULARY,
    Caption,
    PackedCaptions,
    Scorer,
    V,
    made_hypotheses,
    made_references,
    make,
    pack,
)

REFERENCES = made_references(1)


@pytest.fixture(params=registered())
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def reward(name: str) -> Scorer:
    return make(name, REFERENCES)


@pytest.fixture
def packed() -> PackedCaptions:
    return pack(*made_hypotheses(2, REFERENCES))


def test_one_finite_number_per_row(reward: Scorer, packed: PackedCaptions) -> None:
    found = reward(packed)
    assert (found.shape, found.dtype) == ((len(packed),), np.float64)
    assert np.isfinite(found).all()
    assert len(set(found.tolist())) > 10
    assert reward(packed[:0]).shape == (0,)
    assert reward(packed[:, :1]).shape == (len(packed),)


def test_rows_are_independent(reward: Scorer, packed: PackedCaptions) -> None:
    together = reward(packed)
    order = np.random.default_rng(3).permutation(len(packed))
    assert reward(packed[order]).tobytes() == together[order].tobytes()
    alone = [reward(packed[row : row + 1])[0] for row in range(len(packed))]
    assert np.array(alone).tobytes() == together.tobytes()


def test_padding_does_not_change_rewards(reward: Scorer, packed: PackedCaptions) -> None:
    wider = np.pad(packed, ((0, 0), (0, 3)), constant_values=PAD)
    assert reward(wider).tobytes() == reward(packed).tobytes()


def test_a_pickled_copy_gives_identical_rewards(reward: Scorer, packed: PackedCaptions) -> None:
    copy = pickle.loads(pickle.dumps(reward))
    assert copy(packed).tobytes() == reward(packed).tobytes()
    assert copy.signature == reward.signature


def test_scoring_changes_no_state(reward: Scorer, packed: PackedCaptions) -> None:
    before, kept = pickle.dumps(reward), packed.copy()
    first = reward(packed)
    assert pickle.dumps(reward) == before
    assert np.array_equal(packed, kept)
    assert reward(packed).tobytes() == first.tobytes()


def test_a_reference_scores_higher_than_without_its_end_token(name: str) -> None:
    # Otherwise policies learn to truncate captions. One reference per image: BLEU takes the closest
    # of several lengths, so that a truncated caption could match a shorter reference.
    references = {
        image: [caption]
        for image, (caption, *_) in made_references(4, images=600).items()
        if len(caption) > 4 and max(caption) < V
    }
    captions = [caption for (caption,) in references.values()]
    reward = make(name, references)
    ended = reward(pack(list(references), captions))
    cut = reward(pack(list(references), [caption[:-1] for caption in captions]))
    assert len(ended) > 20
    assert (ended > cut).all()


def test_the_signature_names_the_end_token(reward: Scorer, name: str) -> None:
    assert reward.signature.startswith(f"{name}(")
    assert "eos" in reward.signature


def test_import_does_not_load_torch_or_ray() -> None:
    code = "import capdist.rewards, sys; print({'torch', 'ray', 'deepspeed'} & {*sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "set()\n", result.stderr


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (np.zeros(3, np.int64), r"packed captions are int64 \(3,\); expected int64 \(N, 1 \+ L\)"),
        (np.zeros((3, 0), np.int64), r"packed captions are int64 \(3, 0\)"),
        (np.zeros((1, 2), np.float32), r"packed captions are float32 \(1, 2\)"),
        (
            pack([7, 7], [[5, EOS], [V, EOS]]),
            r"row 1 \(image 7\): token id 20 at position 0; .* 0 to",
        ),
        (pack([7], [[5, -2, EOS]]), r"row 0 \(image 7\): token id -2 at position 1; .* 0 to 19"),
        (pack([7], [[5, PAD, 6]]), "token id 6 at position 2; expected only PAD after"),
        (pack([7], [[5, EOS, 6]]), "token id 6 at position 2; expected only PAD after"),
        (pack([7], [[5, EOS, EOS]]), "token id 2 at position 2; expected only PAD after"),
        (pack([1001], [[5, EOS]]), "image 1001 has no references"),
    ],
)
def test_invalid_captions_are_refused(reward: Scorer, array: PackedCaptions, line: str) -> None:
    with pytest.raises(ScoreError, match=line):
        reward(array)


@pytest.mark.parametrize(
    ("references", "line"),
    [
        ({3: [[5, EOS]], 4: [[5, EOS], [5]]}, r"image 4: a reference does not end with EOS \(id 2"),
        ({3: [[5, EOS]], 4: [[]]}, r"image 4: a reference does not end with EOS"),
        ({3: [[5, EOS], [6, EOS, PAD]]}, r"image 3: a reference does not end with EOS"),
        (
            {3: [], 5: [[5, EOS]]},
            "image 3 has no references among the 1 images that have some",
        ),
        ({3: [[5, 2**31, EOS]]}, "a reference has token id 2147483648; expected 0 to 2147483647"),
    ],
)
def test_invalid_references_are_refused(
    name: str, references: dict[int, list[Caption]], line: str
) -> None:
    df = DocumentFrequency.count({3: [[EOS]]}, VOCABULARY.hash)
    with pytest.raises(ScoreError, match=line):
        make(name, references, df)(pack([3], [[5, EOS]]))


def test_references_of_another_type_or_shape_are_refused(reward: Scorer) -> None:
    packed = pack([1], [[5, EOS]])
    for wrong in (np.zeros(3, np.int64), np.zeros((3, 0), np.int64), np.zeros((1, 2))):
        with pytest.raises(ScoreError, match=r"packed references are .*; expected int64 \(M, 1"):
            reward.reward(packed, wrong)


def test_references_of_other_images_do_not_change_rewards(
    reward: Scorer, packed: PackedCaptions
) -> None:
    rows = packed[::7]
    mine = reward.references[np.isin(reward.references[:, 0], rows[:, 0])]
    assert reward.reward(rows, mine).tobytes() == reward(packed)[::7].tobytes()
    wider = np.pad(mine[::-1], ((0, 0), (0, 2)), constant_values=-1)
    in_order = np.argsort(wider[:, 0], kind="stable")
    np.testing.assert_allclose(reward.reward(rows, wider[in_order]), reward(rows), rtol=1e-12)


def test_a_document_frequency_of_another_vocabulary_is_refused(name: str) -> None:
    df = DocumentFrequency.count(REFERENCES, Vocabulary(["other"]).hash)
    with pytest.raises(ScoreError, match=r"document frequency: counted for vocabulary .* again"):
        build({name: 1.0}, VOCABULARY, df)
