"""Draw a flow of tensors as SVG, with the colours of the page's theme.

Rows are drawn from top to bottom. An arrow that passes rows runs down where they have no boxes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from website.flow import LETTERS, Box, Flow, parse

_FLOW = re.compile(r"^```flow\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Sizes in pixels: of a box and the space below it, of what divides columns, of a part's title.
HEIGHT, BELOW, BETWEEN, TITLE = 56, 36, 34, 30
#: Width of a character of code, and space of arrows that run next to each other.
CHARACTER, LANE = 6.4, 9.0
#: For arrows from a symbol to another that pass rows: where they run, and the first and last row.
Lanes = dict[tuple[str, str], tuple[float, int, int]]
_SHIFTED = re.compile(r"([_^])(\{[^}]+\}|\w)")


def draw_flows(markdown: str) -> str:
    """Put a figure in the place of every description."""
    return _FLOW.sub(lambda block: figure(parse(block[1])), markdown)


def figure(flow: Flow) -> str:
    """The HTML of a figure and of the legend of its letters."""
    used = {letter for box in flow.boxes for letter in re.findall(r"[A-Z]", box.shape)}
    legend = ", ".join(f"{letter} {LETTERS[letter]}" for letter in LETTERS if letter in used)
    legend = f"Dashed: what it reads. {legend}."
    svg = "".join(_Drawing(flow).svg())
    return f'<figure class="flow">{svg}<figcaption>{legend}</figcaption></figure>'


@dataclass(frozen=True)
class Place:
    """Where a box is: its row, its middle, its upper edge."""

    row: int
    x: float
    y: float


class _Drawing:
    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        longest = max(max(len(box.code), len(box.shape) + 2) for box in flow.boxes)
        self.box_width = max(104.0, CHARACTER * longest + 14)
        self.columns = max(map(len, flow.rows))
        self.inner = self.columns * (self.box_width + BETWEEN) - BETWEEN
        self.titles: list[tuple[str, float, float]] = []
        self.places = self._places()
        self.lanes = self._lanes()
        edge = [x for x, _, _ in self.lanes.values()]
        self.left = min([0.0, *edge]) - 14
        self.right = max([self.inner, *edge]) + 14

    def _places(self) -> dict[str, Place]:
        places, y, number = {}, 0.0, 0
        for part in self.flow.parts:
            top, y = y, y + TITLE
            for row in part.rows:
                free = self.inner - len(row) * self.box_width
                for i, box in enumerate(row):
                    between = free / (len(row) + 1) if len(row) < self.columns else 0
                    step = self.box_width + (between or BETWEEN)
                    x = between + i * step + self.box_width / 2
                    places[box.symbol] = Place(number, x, y)
                y, number = y + HEIGHT + BELOW, number + 1
            y -= BELOW - 14
            self.titles.append((part.title, top, y))
            y += BELOW - 14
        self.height = self.titles[-1][2]
        return places

    def _arrows(self) -> Iterator[tuple[str, str]]:
        for box in self.flow.boxes:
            yield from ((source, box.symbol) for source in box.sources)

    def _lanes(self) -> Lanes:
        lanes: Lanes = {}
        arrows = sorted(self._arrows(), key=lambda a: self.places[a[1]].row - self.places[a[0]].row)
        for source, target in arrows:
            start, end = self.places[source], self.places[target]
            if end.row - start.row > 1:
                first, last = start.row + 1, end.row - 1
                x = min(
                    self._free(source, first, last, lanes),
                    key=lambda x: 1.01 * abs(x - start.x) + abs(x - end.x),
                )
                lanes[source, target] = (x, first, last)
        return lanes

    def _free(self, source: str, first: int, last: int, lanes: Lanes) -> Iterator[float]:
        """Where no box and no arrow from elsewhere is, in the rows from first to last."""
        boxes = [place.x for place in self.places.values() if first <= place.row <= last]
        others = [
            x
            for (of, _), (x, a, b) in lanes.items()
            if of != source and a <= last + 1 and b >= first - 1
        ]
        for step in range(-20, int(self.inner / LANE) + 21):
            x = self.inner / 2 + (step - int(self.inner / LANE) // 2) * LANE
            clear = all(abs(x - box) > self.box_width / 2 + 6 for box in boxes)
            if clear and all(abs(x - lane) >= LANE - 0.1 for lane in others):
                yield x

    def svg(self) -> Iterator[str]:
        width, height, name = self.right - self.left, self.height, self.flow.model["name"]
        yield (
            f'<svg viewBox="{self.left:g} 0 {width:g} {height:g}" role="img" '
            f'style="width:{width:g}px;min-width:{0.85 * width:g}px" '
            f'aria-label="{escape(_said(self.flow))}">'
            f'<defs><marker id="tip-{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
        )
        for _, top, bottom in self.titles:
            yield (
                f'<rect class="part" x="{self.left + 1:g}" y="{top + 1:g}" rx="6" '
                f'width="{width - 2:g}" height="{bottom - top - 6:g}"/>'
            )
        for path in self._paths():
            yield f'<path class="arrow" marker-end="url(#tip-{name})" d="{path}"/>'
        for title, top, _ in self.titles:
            at = f'x="{self.left + 10:g}" y="{top + 18:g}"'
            yield f'<text class="title" {at}>{escape(title)}</text>'
        for box in self.flow.boxes:
            yield from self._box(box)
        yield "</svg>"

    def _paths(self) -> Iterator[str]:
        entering = defaultdict(list)
        for source, target in self._arrows():
            lane = self.lanes.get((source, target))
            entering[target].append((lane[0] if lane else self.places[source].x, source))
        for target, arrows in entering.items():
            for number, (_, source) in enumerate(sorted(arrows)):
                place = self.places[target]
                space = min(22.0, self.box_width / (len(arrows) + 1))
                x = place.x + (number - (len(arrows) - 1) / 2) * space
                yield self._path(source, target, x, place.y)

    def _path(self, source: str, target: str, x: float, y: float) -> str:
        start = self.places[source]
        at_x, at_y = start.x, start.y + HEIGHT
        d = f"M{at_x:g} {at_y:g}"
        if (source, target) in self.lanes:
            lane, first, last = self.lanes[source, target]
            tops = {place.row: place.y for place in self.places.values()}
            d += _curve(at_x, at_y, lane, tops[first]) + f"V{tops[last] + HEIGHT:g}"
            at_x, at_y = lane, tops[last] + HEIGHT
        return d + _curve(at_x, at_y, x, y)

    def _box(self, box: Box) -> Iterator[str]:
        place, width = self.places[box.symbol], self.box_width
        kind = "read" if box.code.startswith(("batch.", "token", "state.")) else "made"
        yield (
            f'<rect class="{kind}" x="{place.x - width / 2:g}" y="{place.y:g}" rx="4" '
            f'width="{width:g}" height="{HEIGHT}"/>'
        )
        lines = (("symbol", _symbol(box)), ("code", escape(box.code)), ("shape", f"({box.shape})"))
        for (kind, text), below in zip(lines, (17, 33, 48), strict=True):
            yield f'<text class="{kind}" x="{place.x:g}" y="{place.y + below:g}">{text}</text>'


def _said(flow: Flow) -> str:
    """The figure in words."""
    boxes = (
        f"{box.symbol} is {box.code} ({box.shape})"
        + (f", computed from {', '.join(box.sources)}" if box.sources else "")
        for box in flow.boxes
    )
    return f"Flow of tensors in {flow.model['name']}: {'; '.join(boxes)}"


def _symbol(box: Box) -> str:
    """Its text, with what follows ``_`` lowered and what follows ``^`` raised."""

    def shifted(found: re.Match[str]) -> str:
        by = 3 if found[1] == "_" else -5
        text = found[2].strip("{}")
        return f'<tspan dy="{by}" font-size="9">{text}</tspan><tspan dy="{-by}">\u200b</tspan>'

    return _SHIFTED.sub(shifted, escape(box.symbol))


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    middle = (y + to_y) / 2
    return f"C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"
