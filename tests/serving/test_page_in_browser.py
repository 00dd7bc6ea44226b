"""The server's page, and the page of ``capdist caption --html``, in a browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capdist
from capdist.commands.main import main
from capdist.inference.photographs import PhotographCaption
from tests.support.browser import choose_theme, chromium, css, hover, resize, serious_faults, until
from tests.support.serving import Running, blocked_backbone

#: Regions that are drawn have at least this share of the largest weight.
FAINTEST = 0.2
LIT = "return [...document.querySelectorAll('.attended')].map(r => ({...r.dataset}))"
FETCHED = "return performance.getEntriesByType('resource').map(entry => entry.name)"
DROP = """
const data = new DataTransfer();
data.items.add(new File([Uint8Array.from(arguments[0])], "dropped.png", {type: "image/png"}));
const drop = {dataTransfer: data, bubbles: true, cancelable: true};
document.body.dispatchEvent(new DragEvent("drop", drop));
"""
#: The caption that is shown; empty while another one is awaited.
CAPTION = """
const photographs = document.getElementById("photographs");
const words = photographs.querySelector(".words");
return photographs.hasAttribute("aria-busy") || !words ? "" : words.innerText;
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def opened(driver: Any, server: Running) -> Iterator[Any]:
    """The page with the caption of its first sample; nothing may be written to the console."""
    resize(driver, 1200, 900)
    driver.get(server.url)
    until(driver, lambda: bool(caption(driver)))
    yield driver
    driver.execute_script("localStorage.clear()")
    assert driver.get_log("browser") == []


def caption(driver: Any) -> str:
    return str(driver.execute_script(CAPTION))


def name(driver: Any) -> str:
    return str(css(driver, ".photograph")[0].get_attribute("aria-label"))


def check_lit_boxes(driver: Any, expected: PhotographCaption, name: str) -> None:
    """Hovering a word lights the boxes of the model's attention of this name."""
    words = css(driver, ".photograph .word")
    assert [word.text for word in words] == list(expected.words)
    for position in (len(words) - 1, 0):
        hover(driver, words[position])
        weights = expected.maps[name][position]
        drawn = {i: w for i, w in enumerate(weights) if w >= FAINTEST * weights.max()}
        lit = {int(r["region"]): float(r["weight"]) for r in driver.execute_script(LIT)}
        assert lit == pytest.approx(drawn, abs=2e-5)
    strongest = css(driver, ".attended")[0]
    box = [float(strongest.get_attribute(a)) for a in ("x", "y", "width", "height")]
    x1, y1, x2, y2 = 1000 * expected.boxes[int(strongest.get_attribute("data-region"))]
    np.testing.assert_allclose(box, [x1, y1, x2 - x1, y2 - y1], atol=0.1)


def test_the_first_sample_is_captioned_and_words_light_what_they_attended_to(
    opened: Any, server: Running, folder: Path, photographs: list[Path]
) -> None:
    assert name(opened) == "20.png"
    expected = capdist.load(folder / "glied")(photographs[0])
    check_lit_boxes(opened, expected, "regions/local")
    assert css(opened, ".attended")[0].get_attribute("data-stage") == "local"
    rows = [row.text for row in css(opened, ".alternatives tbody tr")]
    best = f"{expected.caption} {expected.score:.2f}"
    others = [f"{other.caption} {other.score:.2f}" for other in expected.alternatives]
    assert rows == [best, *others]
    fetched = opened.execute_script(FETCHED)
    assert all(url.startswith((server.url, "data:", "blob:")) for url in fetched), fetched


def test_a_file_is_uploaded_and_another_one_is_dropped(
    opened: Any, folder: Path, photographs: list[Path]
) -> None:
    captioner = capdist.load(folder / "glied")
    css(opened, "#file")[0].send_keys(str(photographs[3]))
    until(opened, lambda: name(opened) == "23.png")
    assert caption(opened) == captioner(photographs[3]).caption
    opened.execute_script(DROP, list(photographs[4].read_bytes()))
    until(opened, lambda: name(opened) == "dropped.png")
    assert caption(opened) == captioner(photographs[4]).caption
    assert css(opened, '.sample[aria-pressed="true"]') == []
    css(opened, ".sample")[2].click()
    until(opened, lambda: name(opened) == "22.png")
    assert caption(opened) == captioner(photographs[2]).caption


def change(driver: Any, field: str, value: str) -> None:
    (control,) = css(driver, f"[name={field}]")
    if control.tag_name == "select":
        from selenium.webdriver.support.select import Select

        Select(control).select_by_visible_text(value)
    else:
        control.clear()
        control.send_keys(value)
        driver.execute_script("arguments[0].blur()", control)


def test_options_caption_again(opened: Any, folder: Path, photographs: list[Path]) -> None:
    change(opened, "forced", "dog two/cat")
    until(opened, lambda: "dog" in caption(opened).split())
    assert {"two", "cat"} & set(caption(opened).split())
    change(opened, "forced", "unicorn")
    until(opened, lambda: "'unicorn' is not in the vocabulary" in css(opened, "#problem")[0].text)
    change(opened, "forced", "dog")
    change(opened, "beam", "1")
    until(opened, lambda: len(css(opened, ".alternatives tbody tr")) == 1)
    assert not css(opened, "#problem")[0].is_displayed()
    change(opened, "run", "updown")
    until(opened, lambda: len(css(opened, ".alternatives tbody tr")) == 3)
    assert not css(opened, "#switches")[0].is_displayed()
    expected = capdist.load(folder / "updown")(photographs[0], forced=[["dog"]])
    check_lit_boxes(opened, expected, "regions")
    opened.get_log("browser")  # the browser itself logs the answer 422


def test_only_the_last_of_two_photographs_is_shown(opened: Any, photographs: list[Path]) -> None:
    with blocked_backbone(threading.Event(), threading.Event()) as backbone:
        css(opened, ".sample")[1].click()
        until(opened, backbone.reached.is_set)
        css(opened, ".sample")[2].click()
        until(opened, lambda: css(opened, ".sample")[2].get_attribute("aria-pressed") == "true")
        backbone.go.set()
        until(opened, lambda: bool(caption(opened)))
    assert name(opened) == "22.png"


@pytest.mark.parametrize(("width", "height"), [(1200, 900), (390, 844)])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_is_accessible(opened: Any, width: int, height: int, dark: bool) -> None:
    resize(opened, width, height)
    choose_theme(opened, dark=dark)
    background = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (int(background.strip("rgb()").split(",")[0]) < 60) == dark
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    opened.execute_script("document.querySelector('.word').focus()")
    assert serious_faults(opened) == []


def test_the_page_of_a_command_shows_the_same(
    driver: Any, folder: Path, photographs: list[Path], tmp_path: Path
) -> None:
    page, images = tmp_path / "page.html", list(map(str, photographs[:2]))
    command = ["caption", "--run", str(folder / "glied"), "--image", *images]
    assert main([*command, "--html", str(page)]) == 0
    resize(driver, 1200, 900)
    driver.get(page.as_uri())
    first, second = css(driver, ".photograph")
    assert second.get_attribute("aria-label") == "21.png"
    driver.execute_script("arguments[0].remove()", second)
    check_lit_boxes(driver, capdist.load(folder / "glied")(photographs[0]), "regions/local")
    assert first.find_element("css selector", "img").get_property("naturalWidth") == 32
    assert driver.execute_script(FETCHED) == []
    assert serious_faults(driver) == []
    assert driver.get_log("browser") == []
