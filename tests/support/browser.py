"""A headless Chromium that is driven through Selenium; tests skip where it is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
#: Where .ci/run installs it.
AXE = ROOT / ".venv/node_modules/axe-core/axe.min.js"
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A WebDriver with an empty profile, whose console is recorded."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs: pip install selenium")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("needs: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(programs[1])
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver: Any, width: int, height: int) -> None:
    """Give the page this size, whatever the window's frame takes."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )


def css(driver: Any, selector: str) -> list[Any]:
    found: list[Any] = driver.find_elements("css selector", selector)
    return found


#: Waits for the ends of transitions, within which colours are others.
SETTLED = """
Promise.all(document.getAnimations().map((each) => each.finished)).then(arguments[0])
"""


def choose_theme(driver: Any, *, dark: bool) -> None:
    """Dark or light colours; the browser remembers those of the page before."""
    now = driver.execute_script("return document.documentElement.dataset.theme") == "dark"
    if now != dark:
        css(driver, "#theme")[0].click()
    driver.execute_async_script(SETTLED)


def hover(driver: Any, target: Any) -> None:
    from selenium.webdriver import ActionChains

    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
    ActionChains(driver).move_to_element(target).perform()


def until(driver: Any, done: Callable[[], bool]) -> None:
    """Wait for what the browser does in its own time."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(driver, 20).until(lambda _: done())


def serious_faults(driver: Any) -> list[str]:
    """Serious and critical accessibility faults that axe-core finds in the page."""
    if not AXE.is_file():
        pytest.skip("needs: npm install --prefix .venv axe-core")
    driver.execute_script(AXE.read_text(encoding="utf-8"))
    found = driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    return [
        f"{fault['id']}: {node['target']} {node['failureSummary']}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
