"""The report in a browser, opened from a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capdist.reporting.report.looks import Look, read_looks
from tests.support.browser import choose_theme, chromium, css, hover, resize, serious_faults, until

#: Regions that are drawn have at least this share of the largest weight.
FAINTEST = 0.2
LIT = "return [...document.querySelectorAll('.card .attended')].map(r => ({...r.dataset}))"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def opened(driver: Any, page: Path) -> Iterator[Any]:
    """The page, as it opens; afterwards, nothing may have been written to the console."""
    resize(driver, 1200, 900)
    driver.get(page.as_uri())
    hover(driver, css(driver, ".brand")[0])
    driver.execute_script("scrollTo(0, 0)")
    yield driver
    assert driver.get_log("browser") == []


def press(driver: Any, key: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    ActionChains(driver).send_keys(getattr(Keys, key)).perform()


def images(driver: Any) -> list[int]:
    return [int(card.get_attribute("data-image")) for card in css(driver, ".card")]


def looks_of(run: Path) -> dict[int, Look]:
    found = read_looks(run / "captions" / "test-beam3.attention.json.gz")
    return {look.image: look for look in found}


def ciders(driver: Any, run: int) -> dict[int, float]:
    script = "return data.gallery.images.map(i => [i.image_id, i.captions[arguments[0]].cider])"
    return dict(driver.execute_script(script, run))


def test_a_hovered_word_lights_the_regions_that_the_model_attended_to(
    opened: Any, runs: list[Path]
) -> None:
    look = looks_of(runs[0])[2004]
    card = next(c for c in css(opened, ".card") if c.get_attribute("data-image") == "2004")
    (words, _) = card.find_elements("css selector", ".words")
    for position in (1, 0):
        hover(opened, words.find_elements("css selector", ".word")[position])
        weights = look.maps["regions/local"].weights[position]
        expected = {i: w for i, w in enumerate(weights) if w >= FAINTEST * weights.max()}
        lit = opened.execute_script(LIT)
        assert {each["stage"] for each in lit} == {"local"}
        assert {int(r["region"]): float(r["weight"]) for r in lit} == pytest.approx(expected)
    rects = card.find_elements("css selector", ".attended")
    drawn = [float(rects[0].get_attribute(name)) for name in ("x", "y", "width", "height")]
    x1, y1, x2, y2 = look.boxes[int(rects[0].get_attribute("data-region"))]
    assert drawn == [x1, y1, x2 - x1, y2 - y1]


def test_each_stage_has_a_switch(opened: Any, runs: list[Path]) -> None:
    switches = {button.text: button for button in css(opened, "#switches .switch")}
    assert list(switches) == ["global", "local", "α", "β", "γ"]
    for name in ("local", "β"):
        switches[name].click()
    look = looks_of(runs[1])[2004]
    card = next(c for c in css(opened, ".card") if c.get_attribute("data-image") == "2004")
    hover(
        opened, card.find_elements("css selector", ".words")[1].find_element("tag name", "button")
    )
    lit = opened.execute_script(LIT)
    assert {each["stage"] for each in lit} == {"β"}
    strongest = max(lit, key=lambda each: float(each["weight"]))
    assert int(strongest["region"]) == np.argmax(look.maps["regions/β"].weights[0])


def test_arrow_keys_move_between_words_and_captions(opened: Any) -> None:
    def lit() -> list[int]:
        script = """return [...document.querySelectorAll('.words')].flatMap((line, i) =>
            [...line.querySelectorAll('.word')].flatMap((word, j) =>
                word.matches('.lit') ? [i, j] : []))"""
        found: list[int] = opened.execute_script(script)
        return found

    opened.execute_script("document.querySelector('.word').focus()")
    assert lit() == [0, 0]
    press(opened, "ARROW_RIGHT")
    assert lit() == [0, 1]
    press(opened, "ARROW_DOWN")
    assert lit() == [1, 0]
    press(opened, "ARROW_UP")
    assert lit() == [0, 1]
    press(opened, "HOME")
    assert lit() == [0, 0]
    press(opened, "ESCAPE")
    assert lit() == []


def test_images_are_sorted_searched_and_filtered(opened: Any, runs: list[Path]) -> None:
    from selenium.webdriver.support.select import Select

    first, second = ciders(opened, 0), ciders(opened, 1)
    assert images(opened)[:3] == [2000, 2001, 2002]

    def sorted_by(option: str) -> list[int]:
        Select(css(opened, "#sort")[0]).select_by_value(option)
        return images(opened)[:5]

    assert [first[i] for i in sorted_by("worst")] == sorted(first.values())[:5]
    assert [first[i] for i in sorted_by("best")] == sorted(first.values())[:-6:-1]
    changes = sorted((abs(first[i] - second[i]) for i in first), reverse=True)
    assert [abs(first[i] - second[i]) for i in sorted_by("changed")] == changes[:5]
    css(opened, "#search")[0].send_keys("2017")
    assert images(opened) == [2017]
    assert css(opened, "#count")[0].text == "1 of 30 images"
    css(opened, "#search")[0].clear()
    captions = {i: look.beams[0].words for i, look in looks_of(runs[0]).items()}
    word = captions[2003][0]
    css(opened, "#words")[0].send_keys(word)
    css(opened, "#longest")[0].send_keys("6")
    script = "return gallery.found.map(i => data.gallery.images[i].image_id)"
    expected = {i for i, words in captions.items() if word in words and len(words) <= 6}
    assert set(opened.execute_script(script)) == expected


def test_a_failure_shows_its_images(opened: Any) -> None:
    chip = css(opened, ".failures .chip")[0]
    count = int(chip.find_element("tag name", "b").text)
    chip.click()
    assert css(opened, "#count")[0].text == f"{count} of 30 images"
    details = css(opened, ".card details")[0]
    opened.execute_script("arguments[0].open = true", details)
    word, kind = chip.get_attribute("data-word"), chip.get_attribute("data-kind")
    said = {"missing": "missed", "invented": "invented"}[kind]
    until(opened, lambda: f"{said} {word}" in details.text)


def test_more_images_are_made_when_they_are_near(opened: Any) -> None:
    assert len(images(opened)) == 24
    opened.execute_script("document.getElementById('more').scrollIntoView()")
    until(opened, lambda: len(images(opened)) == 30)


def test_curves_are_drawn_and_read_off(opened: Any) -> None:
    plots = css(opened, "#curves .plot")
    assert [plot.get_attribute("aria-label") for plot in plots] == [
        "Training loss",
        "Validation CIDEr",
        "Captions/s",
    ]
    hover(opened, plots[0].find_element("css selector", ".u-over"))
    shown = plots[0].find_elements("css selector", ".u-value")
    # The legend changes with the next frame that the browser draws.
    until(opened, lambda: "–" not in [value.text for value in shown])
    step, *losses = (float(value.text) for value in shown)
    assert losses == pytest.approx([4 - step / 10] * 2)


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
    opened.execute_script("localStorage.clear()")
