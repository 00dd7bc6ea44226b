"""Pictures of what words attended to."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from capdist.reporting.attention_picture import HEIGHT, TEXT, draw_attention, heat_maps

BOXES = np.array([[0.0, 0.0, 0.5, 1.0], [0.25, 0.0, 1.0, 0.5]])


def test_heat_is_the_sum_of_the_weights_of_the_boxes_over_a_pixel() -> None:
    weights = np.array([[0.25, 0.75], [1.0, 0.0], [0.0, 0.0]])
    heat = heat_maps(weights, BOXES, 6, 8)
    for word in range(3):
        expected = np.zeros((6, 8))
        for row, column in np.ndindex(6, 8):
            x, y = (column + 0.5) / 8, (row + 0.5) / 6
            for weight, (x1, y1, x2, y2) in zip(weights[word], BOXES, strict=True):
                expected[row, column] += weight * (x1 <= x < x2 and y1 <= y < y2)
        expected /= max(expected.max(), 1e-9)
        np.testing.assert_allclose(heat[word], expected)


def test_words_are_drawn_over_the_picture() -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 20), (200, 200, 200)).save(file, "PNG")
    words = ["a", "dog"]
    png = draw_attention(file.getvalue(), 2.0, BOXES, words, np.array([[0.0, 1.0], [1.0, 0.0]]))
    drawn = np.array(Image.open(io.BytesIO(png)))
    width = 2 * HEIGHT
    assert drawn.shape == (HEIGHT + TEXT, 3 * width, 3)
    alone, a, dog = (drawn[:HEIGHT, n * width : (n + 1) * width] for n in range(3))
    assert (alone == 200).all()
    left, right = (slice(None), slice(0, width // 8)), (slice(HEIGHT // 2, None), slice(-9, None))
    assert (a[left] == 100).all()  # outside its box: dimmed
    assert (a[right] == 100).all()
    assert (dog[right] == 100).all()
    assert (dog[left] == [227, 148, 100]).all()
    assert (drawn[HEIGHT:, width:] < 128).any()  # the words below


def test_without_picture_and_attention_there_is_a_grey_area() -> None:
    png = draw_attention(None, 1.0, BOXES, [], np.zeros((0, 2)))
    drawn = np.array(Image.open(io.BytesIO(png)))
    assert drawn.shape == (HEIGHT + TEXT, HEIGHT, 3)
    assert (drawn[:HEIGHT] == 96).all()
