"""The page of a report in a browser: nothing is cut at any width or on paper, a keyboard reaches all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Keys
from tests.analysis.page.made import simulated
from tests.ui.browser import Browser

from tokensweep_analysis.page import to_html

pytestmark = pytest.mark.chromium

_A4 = 1017  # pixels between the margins of A4 across
# Elements whose text goes beyond what is seen of them. Tables may go beyond their region, which scrolls.
_CUT = """
    const out = (inner, outer) => inner.right > outer.right + 1 || inner.left < outer.left - 1;
    const page = document.documentElement;
    return {
        page: page.scrollWidth - page.clientWidth,
        regions: [...document.querySelectorAll('.scroll')]
            .filter(e => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight)
            .map(e => e.getAttribute('aria-labelledby')),
        texts: [...document.querySelectorAll('.under div')]
            .filter(e => out(e.getBoundingClientRect(), e.closest('.scroll').getBoundingClientRect()))
            .map(e => e.innerText),
    }"""


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Browser]:
    """A browser that shows a page whose claims have long reasons; its window is as before afterwards."""
    made = simulated(num_arms=3, benchmarks=["aime25"], num_questions=4, num_samples=4)
    long = "98.33 % interval (95 %, Holm over 3) [-12.3, +45.6], 96.67 % interval (90 %, Holm over 3) " * 3
    judgements = tuple(replace(each, reason=long, rule=long) for each in made.judgements)
    path = tmp_path / "report.html"
    path.write_text(to_html(replace(made, judgements=judgements)), encoding="utf-8")
    browser.open(path.as_uri())
    yield browser
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def _resize(browser: Browser, width: int, *, media: str = "screen") -> None:
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})


@pytest.mark.parametrize("width", [500, 800, 1200, 1600])
def test_reasons_of_claims_are_whole_at_every_width(page: Browser, width: int) -> None:
    _resize(page, width)
    found = page.script(_CUT)
    assert page.count(".under div") == 5
    assert (found["page"], found["texts"]) == (0, [])
    if width >= 1200:
        assert "caption-claims" not in found["regions"]


def test_nothing_is_cut_on_paper(page: Browser) -> None:
    _resize(page, _A4, media="print")
    assert page.script(_CUT) == {"page": 0, "regions": [], "texts": []}


def test_the_keyboard_skips_to_the_results_and_its_place_is_seen(page: Browser) -> None:
    keys = ActionChains(page.driver)
    keys.send_keys(Keys.TAB).perform()
    seen = page.script(
        "const e = document.activeElement, box = e.getBoundingClientRect();"
        "return [e.innerText, box.left >= 0 && box.top >= 0, getComputedStyle(e).outlineStyle]"
    )
    assert seen == ["Skip to the results", True, "solid"]
    keys.send_keys(Keys.ENTER).send_keys(Keys.TAB).perform()
    region = "return document.activeElement.getAttribute('aria-labelledby')"
    page.wait(lambda: page.script(region) == "caption-claims", "the table of claims")


def test_the_keyboard_sorts_a_table(page: Browser) -> None:
    page.script("document.querySelector('#ranking thead button').focus()")
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    sorting = "return document.activeElement.closest('th').getAttribute('aria-sort')"
    assert page.script(sorting) == "descending"
    assert page.script("return getComputedStyle(document.activeElement, '::after').content") == '"↓"'
