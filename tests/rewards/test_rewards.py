"""The rewards equal pycocoevalcap's metrics on the same tokens, and their weighted sum."""

from __future__ import annotations

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.rouge.rouge import Rouge

from capdist.config.base import ConfigError
from capdist.metrics.cider_d import CiderD
from capdist.metrics.coco import ScoreError
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.rewards.base import build, registered
from tests.support.cider_d_reference import cider_d, document_frequency
from tests.support.random_captions import as_words
from tests.support.rewards import (
    VOCABULARY,
    Caption,
    Scorer,
    made_hypotheses,
    made_references,
    make,
    pack,
    pack_references,
)

References = dict[int, list[Caption]]


def as_results(
    references: References, images: list[int], captions: list[Caption]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """The input of pycocoevalcap, which takes one caption per image: each row is an image."""
    gold = {row: [as_words(c) for c in references[image]] for row, image in enumerate(images)}
    return gold, {row: [as_words(caption)] for row, caption in enumerate(captions)}


@pytest.mark.parametrize("seed", range(20))
def test_bleu_4_equals_pycocoevalcap(seed: int) -> None:
    references = made_references(seed)
    images, captions = made_hypotheses(seed, references)
    expected = Bleu(4).compute_score(*as_results(references, images, captions), verbose=0)[1][3]
    found = make("bleu_4", references)(pack(images, captions))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_bleu_4_of_long_repetitive_captions() -> None:
    random = np.random.default_rng(1)
    references = {i: random.integers(4, 7, (3, 40)).tolist() for i in range(50)}
    references = {i: [[*caption, 2] for caption in references[i]] for i in references}
    images = list(references)
    captions = [random.integers(4, 7, random.integers(1, 41)).tolist() for _ in images]
    expected = Bleu(4).compute_score(*as_results(references, images, captions), verbose=0)[1][3]
    found = make("bleu_4", references)(pack(images, captions))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert np.median(found) > 0.1


@pytest.mark.parametrize("seed", range(20))
def test_rouge_l_equals_pycocoevalcap(seed: int) -> None:
    references = made_references(seed)
    images, captions = made_hypotheses(seed, references)
    expected = Rouge().compute_score(*as_results(references, images, captions))[1]
    found = make("rouge_l", references)(pack(images, captions))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_cider_d_with_training_document_frequency_and_end_token(seed: int) -> None:
    training = made_references(seed, images=30)
    references = made_references(seed, images=30)
    for image in list(references)[5:]:
        del references[image]
    images, captions = made_hypotheses(seed, references)
    df = DocumentFrequency.count(training, VOCABULARY.hash)
    reward = make("cider_d", references, df)
    counted = document_frequency(training)
    rows = zip(images, captions, strict=True)
    expected = [cider_d(caption, references[i], counted, 30) for i, caption in rows]
    np.testing.assert_allclose(reward(pack(images, captions)), expected, rtol=0, atol=1e-9)
    assert reward.signature == f"cider_d(sigma=6, eos, df={df.hash})"


def test_cider_d_needs_a_document_frequency_with_end_tokens() -> None:
    references = made_references(1)
    with pytest.raises(ScoreError, match="cider_d needs a document frequency; count that"):
        registered()["cider_d"](VOCABULARY)
    clipped = {i: [caption[:-1] for caption in references[i]] for i in references}
    df = DocumentFrequency.count(clipped, VOCABULARY.hash)
    with pytest.raises(ScoreError, match=r"has EOS \(id 2\) in 1 of 12 images; count it again"):
        registered()["cider_d"](VOCABULARY, df)


def test_weighted_sum_adds_weighted_rewards() -> None:
    references = made_references(3)
    packed = pack(*made_hypotheses(3, references))
    df = DocumentFrequency.count(references, VOCABULARY.hash)
    both = Scorer(
        build({"rouge_l": 0.5, "cider_d": 2.0}, VOCABULARY, df), pack_references(references)
    )
    parts = {name: make(name, references)(packed) for name in ("rouge_l", "cider_d")}
    expected = 0.5 * parts["rouge_l"] + 2 * parts["cider_d"]
    np.testing.assert_allclose(both(packed), expected, rtol=1e-15)
    assert both.signature == f"0.5 rouge_l(beta=1.2, eos) + 2 cider_d(sigma=6, eos, df={df.hash})"
    one = build({"cider_d": 1.0}, VOCABULARY, df)
    assert one(packed, both.references).tobytes() == parts["cider_d"].tobytes()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"x\.json: no reward 'cider'; known: bleu_4, cider_d"):
        build({"cider": 1.0}, VOCABULARY, where="x.json")
    with pytest.raises(ConfigError, match=r"reward\.metrics: no reward; name at least one of"):
        build({}, VOCABULARY)


def test_cider_d_with_a_batchs_references_equals_that_with_all_references_bit_for_bit() -> None:
    references = made_references(5, images=60)
    df = DocumentFrequency.count(references, VOCABULARY.hash)
    images, captions = made_hypotheses(5, references)
    everything = CiderD(references, df=df).score(images, captions)
    packed = pack(images, captions)
    for start in range(0, len(packed), 17):
        rows = packed[start : start + 17]
        batch = {int(image): references[int(image)] for image in rows[:, 0]}
        found = make("cider_d", batch, df)(rows)
        assert found.tobytes() == everything[start : start + 17].tobytes()
