"""Which photographs are captioned together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import capdist
from capdist.inference.photographs import PhotographCaptioner
from capdist.serving.batcher import Batcher, Job
from capdist.serving.metrics import Metrics
from shards.picture_batches import PreparedPicture
from tests.support.serving import blocked_backbone

#: Longer than any test: batches start because they are full, or at the end.
FOREVER = 1000.0


@pytest.fixture
def captioners(folder: Path) -> dict[str, PhotographCaptioner]:
    return {name: capdist.load(folder / name) for name in ("glied", "updown")}


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int, int]]]:
    """Name of the model, beam and size of every batch."""
    found: list[tuple[str, int, int]] = []
    caption = PhotographCaptioner.caption_batch

    def noted(self, prepared, decoding):  # type: ignore[no-untyped-def]
        found.append((self.captioner.first.config.model.name, decoding.beam, len(prepared)))
        return caption(self, prepared, decoding)

    monkeypatch.setattr(PhotographCaptioner, "caption_batch", noted)
    return found


def job(captioner: PhotographCaptioner, run: str, path: Path, beam: int = 3) -> Job:
    with Image.open(path) as picture:
        prepared = PreparedPicture.of(captioner.features, picture.convert("RGB"))
    decoding = captioner.captioner.decoding.model_copy(update={"beam": beam})
    return Job(run, decoding, prepared)


def test_batches_are_full_of_one_run_and_setting_and_change_no_caption(
    captioners: dict[str, PhotographCaptioner],
    photographs: list[Path],
    sizes: list[tuple[str, int, int]],
) -> None:
    alone = {run: captioner(photographs) for run, captioner in captioners.items()}
    sizes.clear()
    batcher = Batcher(captioners, 3, FOREVER, Metrics())
    with blocked_backbone(threading.Event(), threading.Event()) as backbone:
        first = [job(captioners["glied"], "glied", path) for path in photographs[:3]]
        found = {("glied", n): batcher.submit(one) for n, one in enumerate(first)}
        assert backbone.reached.wait(60)
        # While the first batch is in the network, more arrive.
        for number in range(3, 8):
            for run, beam in (("glied", 3), ("updown", 2)):
                one = job(captioners[run], run, photographs[number], beam)
                found[run, number] = batcher.submit(one)
    batcher.close()
    assert sizes == [("glied", 3, 3)] + 1 * [("glied", 3, 3), ("updown", 2, 3)] + [
        ("glied", 3, 2),
        ("updown", 2, 2),
    ]
    for (run, number), future in found.items():
        if run == "glied":
            expected, answer = alone[run][number], future.result()
            assert answer.caption == expected.caption
            assert answer.score == pytest.approx(expected.score, abs=1e-4)


def test_a_photograph_waits_for_others_only_so_long(
    captioners: dict[str, PhotographCaptioner], photographs: list[Path]
) -> None:
    batcher = Batcher(captioners, 16, 0.01, Metrics())
    found = batcher.submit(job(captioners["glied"], "glied", photographs[0]))
    assert found.result(60).words is not None
    batcher.close()


def test_cancelled_photographs_are_left_out(
    captioners: dict[str, PhotographCaptioner],
    photographs: list[Path],
    sizes: list[tuple[str, int, int]],
) -> None:
    batcher = Batcher(captioners, 16, FOREVER, Metrics())
    futures = [batcher.submit(job(captioners["glied"], "glied", p)) for p in photographs[:3]]
    assert futures[1].cancel()
    batcher.close()
    assert sizes == [("glied", 3, 2)]
    assert futures[0].done()
    assert futures[2].done()
