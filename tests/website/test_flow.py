"""The model has the parts, shapes and connections that a figure of its tensors shows."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor

from capdist.models.base import registered
from tests.support.documentation import ROOT, Block, blocks
from tests.support.flow import Observed, Run
from website.flow import Flow, parse
from website.flow_figure import draw_flows

PAGES = sorted((ROOT / "docs/models").glob("*.md"))
FLOWS = [block for page in PAGES for block in blocks(page) if block.language == "flow"]


def connections(flow: Flow) -> set[tuple[str, str]]:
    """Pairs of boxes of which the second is computed from the first, along one arrow or more."""
    before: dict[str, set[str]] = {}
    for box in flow.boxes:
        before[box.symbol] = set(box.sources).union(*(before[source] for source in box.sources))
    return {(source, target) for target, sources in before.items() for source in sources}


def depends(flow: Flow, run: Run, observed: Observed) -> set[tuple[str, str]]:
    """The same, of the tensors: by gradients, and by changes of what the model reads."""
    found, floats = set(), [box for box in flow.boxes if run[box.symbol].is_floating_point()]
    inner = [box for box in floats if not box.code.startswith("batch.")]
    for box in inner:
        result: Tensor = run[box.symbol]
        sources = [a for a in inner if a is not box and run[a.symbol].requires_grad]
        if result.grad_fn is not None and sources:
            given = [run[a.symbol] for a in sources]
            gradients = torch.autograd.grad(result.sum(), given, None, True, allow_unused=True)
            used = zip(sources, gradients, strict=True)
            found |= {(a.symbol, box.symbol) for a, gradient in used if gradient is not None}
    for read in flow.boxes:
        if read.code == "token" or read.code.startswith("batch."):
            changed = observed.run(read.code.removeprefix("batch."))
            for box in flow.boxes:
                if box is not read and not torch.equal(changed[box.symbol], run[box.symbol]):
                    found.add((read.symbol, box.symbol))
    return found


@pytest.mark.parametrize("block", FLOWS, ids=lambda block: block.code.split()[0])
def test_a_figure_shows_what_the_model_computes(block: Block) -> None:
    flow = parse(block.code)
    observed = Observed(flow)
    run = observed.run()
    whole = {box.symbol for box in flow.boxes if not run[box.symbol].is_floating_point()}
    whole -= {box.symbol for box in flow.boxes if box.code.startswith(("batch.", "token"))}
    shown = {pair for pair in connections(flow) if not whole.intersection(pair)}
    real = {pair for pair in depends(flow, run, observed) if not whole.intersection(pair)}
    assert shown - real == set(), "arrows that the model does not have"
    assert real - shown == set(), "arrows that the figure does not have"


def test_every_model_has_a_figure() -> None:
    drawn = {parse(block.code).model["name"] for block in FLOWS}
    files: dict[str, set[str]] = {}
    for name, model in registered().items():
        files.setdefault(model.__module__, set()).add(name)
    missing = {file for file, names in files.items() if not names & drawn}
    assert not missing, "write a block ```flow on the pages of these"
    assert {block.page for block in FLOWS} == set(PAGES)


LSTM = next(block.code for block in FLOWS if block.code.startswith("lstm\n"))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("self.image (B, D)", "self.image (B, E)"),
        ("self.image (B, D)", "self.picture (B, D)"),
        ("<- v, E x_t, h_{t-1}", "<- v, E x_t"),
        ("self.words (B, K, E) <- x_t", "self.words (B, K, E) <- x_t, v"),
    ],
    ids=["shape", "name", "arrow left out", "arrow added"],
)
def test_a_figure_that_the_model_does_not_have_is_found(right: str, wrong: str) -> None:
    assert right in LSTM
    with pytest.raises((AssertionError, AttributeError)):
        test_a_figure_shows_what_the_model_computes(
            Block(PAGES[0], "", "flow", LSTM.replace(right, wrong))
        )


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("x_t = token (B, K)", "x_t: token", "expected symbol = code"),
        ("<- x_t", "<- y_t", "no rows above have ['y_t']"),
        ("x_t = token", "v = token", "a symbol is there twice"),
    ],
)
def test_a_description_that_cannot_be_read_is_refused(right: str, wrong: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse(LSTM.replace(right, wrong))


@pytest.mark.parametrize("block", FLOWS, ids=lambda block: block.code.split()[0])
def test_a_figure_has_every_box_and_arrow(block: Block) -> None:
    flow = parse(block.code)
    drawn = ElementTree.fromstring(draw_flows(f"```flow\n{block.code}```"))
    boxes = [each for each in drawn.iter("rect") if each.get("class") != "part"]
    arrows = [each for each in drawn.iter("path") if each.get("class") == "arrow"]
    assert len(boxes) == len(flow.boxes)
    assert len(arrows) == sum(len(box.sources) for box in flow.boxes)
    # Straight parts of arrows run past boxes.
    for arrow in arrows:
        for x, top, bottom in re.findall(r" ([-\d.]+) ([-\d.]+)V([-\d.]+)", arrow.get("d", "")):
            for box in boxes:
                left, y = float(box.get("x", "")), float(box.get("y", ""))
                if float(top) <= y < float(bottom):
                    assert not left < float(x) < left + float(box.get("width", ""))
