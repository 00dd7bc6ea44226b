import numpy as np
import pytest

from shards import concepts
from shards.schema import Array, ShardError


def random_set(count: int, seed: int = 0) -> tuple[Array, Array]:
    """X (N, 6) and Y (N, 3); words 0 and 1 depend on X, word 2 does not."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(count, 6)) * [1, 2, 3, 1, 1, 1] + 5
    Y = np.stack([X[:, 0] > 5, X[:, 1] + X[:, 2] > 10, rng.random(count) > 0.5], axis=1)
    return X, Y.astype(np.float64)


def test_commonest_words_count_captions() -> None:
    images = [
        [["a", "dog", "runs"], ["the", "dog", "dog", "."]],
        [["a", "cat", "runs", "2"], ["zebra"]],
    ]
    # Captions with the word: dog 2 (twice in one counts once), runs 2, cat 1, zebra 1.
    captions = concepts.captions_with_words(images)
    assert concepts.commonest_words(captions, 3) == ("dog", "runs", "cat")
    assert concepts.commonest_words(captions, 99) == ("dog", "runs", "cat", "zebra")


def test_captions_without_a_content_word_are_refused() -> None:
    with pytest.raises(ShardError, match="no content word to learn as a concept"):
        concepts.commonest_words({"the": 1, "2": 1, ".": 1}, 3)


def test_pooling_is_mean_then_maximum() -> None:
    regions = np.array([[1, -2], [3, -4]], np.float16)
    np.testing.assert_array_equal(concepts.pool_regions(regions), [2, -3, 3, -2])


@pytest.mark.parametrize("count", [4, 6, 23])
@pytest.mark.parametrize("penalty", [0.1, 10.0, 1000.0])
def test_ridge_equals_least_squares_with_penalty_rows(penalty: float, count: int) -> None:
    X, Y = random_set(count)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    rows = np.block([[Z, np.ones((count, 1))], [np.sqrt(penalty) * np.eye(6), np.zeros((6, 1))]])
    solution = np.linalg.lstsq(rows, np.concatenate([Y, np.zeros((6, 3))]), rcond=None)[0]
    model = concepts.fit_ridge_path(X, Y, [5.0, penalty])[1]
    np.testing.assert_allclose(np.vstack([model.weights, model.bias]), solution, atol=1e-10)


def test_constant_feature_gives_finite_scores() -> None:
    X, Y = random_set(30)
    X[:, 4] = 7
    assert np.isfinite(concepts.fit(X, Y)(X)).all()


def brute_force_precision(scores: Array, truth: Array) -> float:
    ranked = [truth[i] for i in sorted(range(len(truth)), key=lambda i: -scores[i])]
    precision_at_hits = [sum(ranked[: k + 1]) / (k + 1) for k in range(len(ranked)) if ranked[k]]
    return float(sum(precision_at_hits) / len(precision_at_hits))


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        ([0.9, 0.8, 0.7], [1, 0, 1], (1 + 2 / 3) / 2),
        ([0.1, 0.2, 0.3], [1, 0, 0], 1 / 3),
        ([0.9, 0.8, 0.7], [1, 1, 1], 1),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 0], 1 / 2),  # ties rank in the order of the columns
        ([0.9, 0.5, 0.5, 0.1], [0, 0, 1, 1], (1 / 3 + 2 / 4) / 2),
    ],
)
def test_average_precision_by_hand(scores: list[float], truth: list[int], expected: float) -> None:
    found = concepts.mean_average_precision(np.array([scores]), np.array([truth]))
    assert found == pytest.approx(expected)


def test_average_precision_of_rows_without_truth() -> None:
    scores, truth = (
        np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]),
        np.array([[1, 0], [0, 0], [0, 1]]),
    )
    assert concepts.mean_average_precision(scores, truth) == pytest.approx((1 + 1 / 2) / 2)
    assert concepts.mean_average_precision(scores, np.zeros((3, 2))) == 0
    assert concepts.mean_average_precision(np.zeros((0, 2)), np.zeros((0, 2))) == 0


def test_mean_average_precision_equals_brute_force() -> None:
    rng = np.random.default_rng(3)
    scores, Y = rng.random((5, 17)).round(1), (rng.random((5, 17)) > 0.7).astype(float)
    Y[2] = 0
    expected = [brute_force_precision(scores[row], Y[row]) for row in (0, 1, 3, 4)]
    assert concepts.mean_average_precision(scores, Y) == pytest.approx(np.mean(expected))


def test_concepts_of_an_image_do_not_depend_on_its_captions() -> None:
    X, Y = random_set(60)
    before = concepts.cross_fit(X, Y)
    changed = []
    for image in range(60):
        other = Y.copy()
        other[image] = 1 - other[image]
        after = concepts.cross_fit(X, other)
        np.testing.assert_array_equal(after[image], before[image])
        changed.append((after != before).any())
    assert all(changed)


def test_predictable_words_are_learned() -> None:
    X, Y = random_set(400)
    scores = concepts.cross_fit(X, Y)
    precisions = [brute_force_precision(scores[:, w], Y[:, w]) for w in range(3)]
    assert precisions[0] > 0.95
    assert precisions[1] > 0.95
    assert precisions[2] < 0.7
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_top_concepts_have_ties_in_word_order() -> None:
    scores = np.array([[0.5, 0.9, 0.5, 0.1], [0, 0, 0, 1.0]])
    assert concepts.top_concepts(scores, "abcd", 3) == [
        (("b", 0.9), ("a", 0.5), ("c", 0.5)),
        (("d", 1.0), ("a", 0.0), ("b", 0.0)),
    ]


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ShardError, match=r"9 training images are too few.*--concepts 0"):
        concepts.cross_fit(*random_set(9))
