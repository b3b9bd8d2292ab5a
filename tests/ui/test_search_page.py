"""The page of a search in a browser: what is wider than the window scrolls by itself, also at 800 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.analysis.search.made import FRACTION, a_pruned, a_trial, write_search
from tests.ui.browser import Browser

from tokensweep_analysis.page import write_page
from tokensweep_analysis.tables import compare

pytestmark = pytest.mark.chromium

_WIDE = """
    const page = document.documentElement;
    return {
        page: page.scrollWidth - page.clientWidth,
        plots: [...document.querySelectorAll('figure.wide')]
            .map(e => [e.scrollWidth, e.clientWidth, e.tabIndex]),
    }"""


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Browser]:
    """A browser with a search over seven parameters of long names and values."""
    space: list[dict[str, Any]] = [FRACTION] + [
        {"key": f"method.token_weights.with_a_long_name_{at}", "choices": ["a_long_choice" * 3, "short"]}
        for at in range(6)
    ]
    trials = []
    for number in range(12):
        params = {one["key"]: one["choices"][number % 2] for one in space[1:]} | {"method.fraction": 0.5}
        trials.append(
            a_pruned(number, params=params)
            if number % 4 == 3
            else a_trial(number, number / 16, params=params)
        )
    sweep = write_search(tmp_path, trials, space=space)
    browser.open(write_page(compare(tmp_path, "demo"), tmp_path, sweep / "report").as_uri())
    yield browser
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [500, 800, 1200])
def test_nothing_is_wider_than_the_window(page: Browser, width: int) -> None:
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    found = page.script(_WIDE)
    assert found["page"] == 0
    [(content, room, focus)] = found["plots"]
    assert focus == 0
    assert (content > room) == (width <= 800)
