"""Who learns from whom in a stage mil, and that it can learn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from capdist.batch import Batch
from capdist.inference.concept_prediction import fold_of
from capdist.losses.concepts import absence_nll, noisy_or, noisy_or_cross_entropy
from capdist.models.concept_detector import CrossFitted
from capdist.objectives.concept_detection import ConceptDetection, LabelledBatch, mentioned
from shards.concepts import mean_average_precision
from tests.support.models import images_of, make_batch

FOLDS, WORDS = 3, 4
CAPTIONS = {
    0: [["a", "dog"], ["dog", "runs"]],
    1: [["birds"]],
    2: [["a", "cat", "sits"], ["nothing", "known"]],
}


def make_objective() -> ConceptDetection:
    torch.manual_seed(1)
    model = CrossFitted(7, WORDS, 8, 0.0, FOLDS)
    return ConceptDetection(model, WORDS, mentioned(CAPTIONS, ("dog", "cat", "birds", "runs")))


def labelled(objective: ConceptDetection, batch: Batch) -> LabelledBatch:
    (found,) = objective.prepare([batch], 0, torch.device("cpu"))
    assert isinstance(found, LabelledBatch)
    return found


def test_labels_by_hand() -> None:
    batch = labelled(make_objective(), make_batch())
    assert batch.mentioned.tolist() == [[1, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]]
    for row, key in enumerate(batch.keys):
        expected = [1.0] * (1 + FOLDS)
        expected[1 + fold_of(key, FOLDS)] = 0.0
        assert batch.learns[row].tolist() == expected


@pytest.mark.parametrize("folds", [2, 5, 10])
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_folds_are_about_equal_for_keys_of_any_stride(folds: int, step: int) -> None:
    sizes = Counter(fold_of(f"{number:012d}", folds) for number in range(0, 6000 * step, step))
    assert len(sizes) == folds
    assert all(abs(size - 6000 / folds) < 0.1 * 6000 / folds for size in sizes.values())


def test_the_loss_is_that_of_every_pair() -> None:
    objective, batch = make_objective(), make_batch()
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
        objective, batch = make_objective(), make_batch()
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
    )
    torch.manual_seed(0)
    model = CrossFitted(7, WORDS, 128, 0.0, FOLDS)
    objective = ConceptDetection(
        model, WORDS, {i: truth[i].nonzero()[:, 0].numpy() for i in range(images)}
    )
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
