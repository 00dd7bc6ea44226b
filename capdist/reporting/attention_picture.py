"""A picture of what each word of a caption attended to, drawn with pillow alone: it is quick."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: Height of a tile and of the text below it, and its narrowest and widest width, in pixels.
HEIGHT, TEXT, WIDTHS = 144, 20, (72, 288)
#: Tiles in a row.
COLUMNS = 6
#: What weights are drawn with, on a picture that is as bright as `DIM`.
COLOUR, DIM = (255, 96, 0), 0.5
_FONT_SIZE = 13
_EMPTY = (96, 96, 96)

Floats = NDArray[np.float64]


def draw_attention(
    picture: bytes | None, aspect: float, boxes: Floats, words: list[str], weights: Floats
) -> bytes:
    """A PNG with a tile of the picture alone, and one for each word with its weights over it.

    Args:
        picture: a PNG; None: a grey area.
        aspect: the image's width / height.
        boxes: (R, 4) x1 y1 x2 y2 in 0..1.
        words: of the caption.
        weights: (L, R) of the regions before each word.

    Raises:
        OSError, ValueError: if the picture can't be read.
    """
    width = min(max(round(HEIGHT * aspect), WIDTHS[0]), WIDTHS[1])
    image = _open(picture, width)
    heats = heat_maps(weights, boxes, HEIGHT, width)
    tiles = [("", image), *zip(words, (_blend(image, heat) for heat in heats), strict=True)]
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (columns * width, rows * (HEIGHT + TEXT)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_SIZE)
    for number, (word, tile) in enumerate(tiles):
        row, column = divmod(number, columns)
        left, top = column * width, row * (HEIGHT + TEXT)
        canvas.paste(tile, (left, top))
        draw.text((left + width / 2, top + HEIGHT + 2), word, "black", font, anchor="ma")
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


def heat_maps(weights: Floats, boxes: Floats, height: int, width: int) -> Floats:
    """(L, height, width) in 0..1: at a pixel, the weights of the boxes over its centre.

    A word's largest value becomes 1.
    """
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    left, top, right, bottom = boxes.T[:, :, None]
    across, down = (left <= x) & (x < right), (top <= y) & (y < bottom)  # (R, width), (R, height)
    heat = np.einsum("lr,rh,rw->lhw", weights, down.astype(float), across.astype(float))
    peak = heat.max((1, 2), keepdims=True)
    return np.divide(heat, peak, out=np.zeros_like(heat), where=peak > 0)


def _open(picture: bytes | None, width: int) -> Image.Image:
    if picture is None:
        return Image.new("RGB", (width, HEIGHT), _EMPTY)
    with Image.open(io.BytesIO(picture), formats=["PNG"]) as opened:
        return opened.convert("RGB").resize((width, HEIGHT))


def _blend(image: Image.Image, heat: Floats) -> Image.Image:
    """The picture, dimmed, with `COLOUR` where the heat (height, width) is."""
    dimmed = DIM * np.asarray(image, np.float64)
    drawn = dimmed + heat[..., None] * (1 - DIM) * np.array(COLOUR, np.float64)
    return Image.fromarray(drawn.clip(0, 255).astype(np.uint8))
