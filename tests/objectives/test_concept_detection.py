"""Who learns from whom in a stage mil, and that it can learn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from capdist.batch import Batch
from capdist.config.data import DataConfig
from capdist.config.stage import BatchConfig
from capdist.data.dataset import captioned, training_batches
from capdist.data.rank_plan import Ranks
from capdist.data.training_captions import TrainingCaptions, read_counts
from capdist.inference.concept_prediction import fold_of
from capdist.losses.concepts import absence_nll, noisy_or, noisy_or_cross_entropy
from capdist.models.concept_detector import CrossFitted
from capdist.objectives.concept_detection import ConceptDetection, LabelledBatch, mentioned
from shards.concepts import commonest_words, mean_average_precision
from shards.manifest import Manifest
from tests.support.models import images_of, make_batch

FOLDS, WORDS = 3, 4
#: Ids of dog, cat, birds and runs; and captions: a dog, dog runs; birds; a cat sits, nothing known.
IDS = (10, 30, 20, 40)
REFERENCES = np.array(
    [[[5, 10, 2], [10, 40, 2]], [[20, 2, -1], [-1, -1, -1]], [[5, 30, 6], [7, 99, 2]]], np.int32
)


def make_objective() -> ConceptDetection:
    torch.manual_seed(1)
    model = CrossFitted(7, WORDS, 8, 0.0, FOLDS)
    return ConceptDetection(model, IDS)


def captioned_batch() -> Batch:
    return replace(make_batch(), references=REFERENCES)


def labelled(objective: ConceptDetection, batch: Batch) -> LabelledBatch:
    (found,) = objective.prepare([batch], 0, torch.device("cpu"))
    assert isinstance(found, LabelledBatch)
    return found


def test_labels_by_hand() -> None:
    batch = labelled(make_objective(), captioned_batch())
    assert batch.mentioned.tolist() == [[1, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]]
    for row, key in enumerate(batch.keys):
        expected = [1.0] * (1 + FOLDS)
        expected[1 + fold_of(key, FOLDS)] = 0.0
        assert batch.learns[row].tolist() == expected


def test_labels_are_the_words_of_whole_captions(tiny: Manifest) -> None:
    counts = read_counts(tiny, DataConfig(shards="").copies).count_captions_with()
    words = commonest_words(counts, 1000)
    # Only the commonest is in the vocabulary, and captions are clipped.
    data = DataConfig(shards=str(tiny.root), max_words=2, min_count=counts[words[0]])
    captions = TrainingCaptions.read(tiny, data)
    assert words[-1] not in captions.vocab
    expected = mentioned(captioned(tiny, "train").tokens, words)
    ids = captions.reference_ids
    objective = ConceptDetection(
        CrossFitted(tiny.features.dim, len(words), 8, 0.0, FOLDS), [ids(word) for word in words]
    )
    batches = training_batches(
        tiny, data, BatchConfig(images=4, micro=4), captions.vocab, Ranks(), 1, reference_ids=ids
    )
    found = {
        image: row.nonzero().flatten().tolist()
        for step in batches.steps(0, 0)
        for batch in map(objective.label, step.batches)
        for image, row in zip(batch.image_ids.tolist(), batch.mentioned, strict=False)
    }
    assert found == {image: each.tolist() for image, each in expected.items()}


@pytest.mark.parametrize("folds", [2, 5, 10])
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_folds_are_about_equal_for_keys_of_any_stride(folds: int, step: int) -> None:
    sizes = Counter(fold_of(f"{number:012d}", folds) for number in range(0, 6000 * step, step))
    assert len(sizes) == folds
    assert all(abs(size - 6000 / folds) < 0.1 * 6000 / folds for size in sizes.values())


def test_the_loss_is_that_of_every_pair() -> None:
    objective, batch = make_objective(), captioned_batch()
    found = labelled(objective, batch)
    detectors = [objective.model.whole, *objective.model.held_out]
    expected = 0.0
    for row, key in enumerate(batch.keys):
        one = replace(batch, **{n: getattr(batch, n)[row : row + 1] for n in REAL})
        for number, detector in enumerate(detectors):
            if number != 1 + fold_of(key, FOLDS):
                loss = noisy_or_cross_entropy(
                    absence_nll(*detector(one)), found.mentioned[row : row + 1]
                )
                expected += loss.item()
    assert objective(found).item() == pytest.approx(expected, rel=1e-5)
    assert objective.weight(found) == len(batch.keys) * FOLDS


REAL = ("regions", "region_mask")


def test_an_image_teaches_nothing_to_the_detector_of_its_fold() -> None:
    for row in range(3):
        objective, batch = make_objective(), captioned_batch()
        alone = images_of(batch, slice(row, row + 1))
        objective(labelled(objective, alone)).backward()
        learned = [
            any(p.grad is not None and bool(p.grad.any()) for p in detector.parameters())
            for detector in (objective.model.whole, *objective.model.held_out)
        ]
        fold = fold_of(alone.keys[0], FOLDS)
        assert learned == [True, *(number != fold for number in range(FOLDS))]


def test_a_batch_of_no_weight_has_no_gradient() -> None:
    objective = make_objective()
    batch = labelled(objective, Batch.empty(7))
    loss = objective(batch)
    loss.backward()
    assert (objective.weight(batch), loss.item()) == (0, 0.0)
    assert not any(p.grad is not None and p.grad.any() for p in objective.parameters())


def test_a_word_of_one_region_is_found_and_training_images_are_not_told_better() -> None:
    """Word w is said where some region points along axis w; half of the labels are noise.

    What the noise says can only be learned by heart: a detector that saw an image ranks its
    words better than those of an unseen one, and that of its fold does not.
    """
    generator = torch.Generator().manual_seed(0)
    images, regions = 150, 6
    features = 0.3 * torch.randn(images, regions, 7, generator=generator)
    truth = torch.rand(images, WORDS, generator=generator) < 0.3
    for image, word in truth.nonzero().tolist():
        features[image, int(torch.randint(regions, (1,), generator=generator)), word] += 3
    truth[:, 2:] = torch.rand(images, WORDS - 2, generator=generator) < 0.3
    batch = replace(
        Batch.empty(7),
        keys=tuple(f"{i:012d}" for i in range(images)),
        image_ids=torch.arange(images),
        regions=features,
        region_mask=torch.ones(images, regions, dtype=torch.bool),
        references=np.where(truth.numpy(), IDS, -1).astype(np.int32)[:, None],
    )
    torch.manual_seed(0)
    model = CrossFitted(7, WORDS, 128, 0.0, FOLDS)
    objective = ConceptDetection(model, IDS)
    data, optimizer = labelled(objective, batch), torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        (objective(data) / objective.weight(data)).backward()
        optimizer.step()
    with torch.inference_mode():
        whole, *held_out = (noisy_or(absence_nll(*logits)).numpy() for logits in model(batch))
    own = np.stack([held_out[fold_of(key, FOLDS)][row] for row, key in enumerate(batch.keys)])
    said_of = truth.numpy()
    assert mean_average_precision(own.T[:2], said_of.T[:2]) > 0.95
    assert mean_average_precision(whole.T[2:], said_of.T[2:]) > 0.6
    assert mean_average_precision(own.T[2:], said_of.T[2:]) < 0.4
