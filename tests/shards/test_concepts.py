import numpy as np
import pytest

from shards import concepts
from shards.schema import Array, ShardError


def made_set(count: int, seed: int = 0) -> tuple[Array, Array]:
    """X (N, 6), and Y (N, 3) of which words 0 and 1 can be told from X."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(count, 6)) * [1, 2, 3, 1, 1, 1] + 5
    Y = np.stack([X[:, 0] > 5, X[:, 1] + X[:, 2] > 10, rng.random(count) > 0.5], axis=1)
    return X, Y.astype(np.float64)


def test_commonest_words_by_hand() -> None:
    images = [
        [["a", "dog", "runs"], ["the", "dog", "dog", "."]],
        [["a", "cat", "runs", "2"], ["zebra"]],
    ]
    # In captions: dog 2 (twice in one counts once), runs 2, cat 1, zebra 1.
    assert concepts.commonest_words(images, 3) == ("dog", "runs", "cat")
    assert concepts.commonest_words(images, 99) == ("dog", "runs", "cat", "zebra")


def test_pool_is_mean_then_maximum() -> None:
    regions = np.array([[1, -2], [3, -4]], np.float16)
    np.testing.assert_array_equal(concepts.pool(regions), [2, -3, 3, -2])


@pytest.mark.parametrize("penalty", [0.1, 10.0, 1000.0])
def test_ridge_equals_least_squares_with_penalty_rows(penalty: float) -> None:
    X, Y = made_set(23)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    rows = np.block([[Z, np.ones((23, 1))], [np.sqrt(penalty) * np.eye(6), np.zeros((6, 1))]])
    solution = np.linalg.lstsq(rows, np.concatenate([Y, np.zeros((6, 3))]), rcond=None)[0]
    model = concepts.fit_path(X, Y, [5.0, penalty])[1]
    np.testing.assert_allclose(np.vstack([model.weights, model.bias]), solution, atol=1e-10)


def test_a_constant_feature_does_no_harm() -> None:
    X, Y = made_set(30)
    X[:, 4] = 7
    assert np.isfinite(concepts.fit(X, Y)(X)).all()


def brute_precision(scores: Array, truth: Array) -> float:
    ranked = [truth[i] for i in sorted(range(len(truth)), key=lambda i: -scores[i])]
    at_hits = [sum(ranked[: k + 1]) / (k + 1) for k in range(len(ranked)) if ranked[k]]
    return float(sum(at_hits) / len(at_hits))


def test_average_precision_equals_brute_force() -> None:
    rng = np.random.default_rng(3)
    scores, Y = rng.random((5, 17)).round(1), (rng.random((5, 17)) > 0.7).astype(float)
    Y[2] = 0
    expected = [brute_precision(scores[row], Y[row]) for row in (0, 1, 3, 4)]
    assert concepts.mean_average_precision(scores, Y) == pytest.approx(np.mean(expected))
    assert concepts.mean_average_precision(scores, np.zeros_like(Y)) == 0


def test_an_images_own_captions_do_not_touch_its_concepts() -> None:
    X, Y = made_set(60)
    before = concepts.cross_fit(X, Y)
    changed = []
    for image in range(60):
        other = Y.copy()
        other[image] = 1 - other[image]
        after = concepts.cross_fit(X, other)
        np.testing.assert_array_equal(after[image], before[image])
        changed.append((after != before).any())
    assert all(changed)


def test_what_can_be_told_is_learned() -> None:
    X, Y = made_set(400)
    scores = concepts.cross_fit(X, Y)
    precisions = [brute_precision(scores[:, w], Y[:, w]) for w in range(3)]
    assert precisions[0] > 0.95
    assert precisions[1] > 0.95
    assert precisions[2] < 0.7
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_best_are_ranked_with_ties_in_word_order() -> None:
    scores = np.array([[0.5, 0.9, 0.5, 0.1], [0, 0, 0, 1.0]])
    assert concepts.best(scores, "abcd", 3) == [
        (("b", 0.9), ("a", 0.5), ("c", 0.5)),
        (("d", 1.0), ("a", 0.0), ("b", 0.0)),
    ]


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ShardError, match=r"9 training images are too few.*--concepts 0"):
        concepts.cross_fit(*made_set(9))
