"""Draws the picture of a scene."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw

from shards.scenes.shapes import DARK, INK, LIGHT, MAIN, Stroke
from shards.scenes.variants import shape
from shards.scenes.world import SIDE, Box, Scene

#: Pictures are drawn this many times larger and then reduced (antialiasing).
SCALE = 2
#: Vertical position of the horizon in [0, 1].
HORIZON = 0.55

Colour = tuple[int, int, int]

PAINT: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 218, 60),
    "green": (46, 139, 72),
    "blue": (44, 96, 200),
    "purple": (134, 62, 170),
    "white": (244, 244, 244),
    "black": (58, 58, 64),
}
OUTLINE: Colour = (24, 24, 28)

#: Colours above and below the horizon.
GROUNDS: dict[str, tuple[Colour, Colour]] = {
    "grass": ((196, 226, 245), (158, 206, 128)),
    "beach": ((180, 222, 240), (236, 217, 172)),
    "floor": ((228, 214, 200), (186, 148, 116)),
    "snow": ((176, 190, 212), (232, 238, 246)),
}


def draw_picture(scene: Scene) -> bytes:
    """A scene as the bytes of a PNG file, SIDE × SIDE pixels, RGB."""
    buffer = io.BytesIO()
    paint(scene).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def paint(scene: Scene) -> Image.Image:
    """A scene as a picture of SIDE × SIDE pixels, RGB."""
    edge = SIDE * SCALE
    above, below = GROUNDS[scene.backdrop]
    image = Image.new("RGB", (edge, edge), above)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, int(edge * HORIZON), edge, edge), fill=below)
    for entity, box in scene.objects():
        tones = _tones(PAINT[entity.colour])
        for stroke in shape(entity.kind):
            _paint(pen, stroke, box, tones[stroke.tone])
    return image.reduce(SCALE)


def _tones(colour: Colour) -> dict[str, Colour]:
    return {
        MAIN: colour,
        LIGHT: _mixed(colour, 255),
        DARK: _mixed(colour, 0),
        INK: OUTLINE,
    }


def _mixed(colour: Colour, grey: int) -> Colour:
    """The mean of a colour and a grey level (0 black, 255 white)."""
    red, green, blue = ((part + grey) // 2 for part in colour)
    return red, green, blue


def _paint(pen: ImageDraw.ImageDraw, stroke: Stroke, box: Box, colour: Colour) -> None:
    x1, y1, x2, y2 = (SCALE * edge for edge in box)
    points = [(x1 + u * (x2 - 1 - x1), y1 + v * (y2 - 1 - y1)) for u, v in stroke.points]
    if stroke.shape == "line":
        pen.line(points, fill=colour, width=2 * SCALE, joint="curve")
    elif stroke.shape == "polygon":
        pen.polygon(points, fill=colour, outline=OUTLINE, width=SCALE)
    elif stroke.shape == "ellipse":
        pen.ellipse(points, fill=colour, outline=OUTLINE, width=SCALE)
    else:
        pen.rectangle(points, fill=colour, outline=OUTLINE, width=SCALE)
