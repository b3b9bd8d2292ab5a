"""Pictures of the pages for the documentation. Of a sweep of your own, and kept:

    python -m pytest tests/ui/test_pictures.py --store ~/tokensweep --sweep forking_tokens-tiny \\
        --into docs/screenshots
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.ui.browser import Browser
from tests.ui.pages import Pages, show

_LARGEST = 200_000  # bytes; they are part of the repository

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # mlflow keeps its connections until the end
]


def test_a_picture_of_each_page_is_small_and_shows_something(
    request: pytest.FixtureRequest, browser: Browser, server: str, tmp_path: Path
) -> None:
    store, sweep = (request.config.getoption(name, default=None) for name in ("--store", "--sweep"))
    if store:
        pages = show(Path(store).expanduser(), sweep, server=server)
    else:
        pages = request.getfixturevalue("pages")
    pictures = take(browser, pages, folder=tmp_path)
    for picture in pictures:
        assert 10_000 < picture.stat().st_size < _LARGEST, picture.name
    if into := request.config.getoption("--into", default=None):
        Path(into).mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            shutil.copy(picture, Path(into) / picture.name)


def take(browser: Browser, pages: Pages, *, folder: Path) -> list[Path]:
    """Pictures of the saved views, the runs page, two runs compared, answers of runs and the report."""

    def picture(name: str, url: str, *texts: str, scroll: str = "") -> Path:
        browser.open(url)
        browser.wait_for(*texts)
        if browser.count("button[aria-label='Hide banner']"):
            browser.click("button[aria-label='Hide banner']")
        if scroll:
            browser.scroll_to(scroll)
        browser.settle()
        browser.picture(folder / f"{name}.png")
        return folder / f"{name}.png"

    by_arm, single, means = "tokensweep", "tokensweep-runs", "tokensweep-arms"
    two = sorted(name for name in pages.runs if "(mean of" in name)[:2]
    results, axes = "matching runs", "Parallel Coordinates"
    return [
        picture("saved-view", pages.saved(by_arm, "CHART"), results, "pooled/pass_at_1"),
        picture("training-curves", pages.saved(by_arm, "CHART"), results, "training", scroll="training"),
        picture("runs", pages.saved(by_arm, "TABLE"), results, "pooled/pass_at_1"),
        picture("every-run", pages.saved(single, "CHART"), results, axes),
        picture("means-and-intervals", pages.saved(means, "TABLE"), results, "mean of"),
        picture("differences", pages.saved(means, "CHART"), results, "differences", scroll="differences"),
        picture("compare", pages.compare(*two), "Comparing 2 Runs", *two),
        picture("questions", pages.saved(single, "ARTIFACT"), "Group by: question", "Compare: avg@n"),
        picture("report", pages.artefact("report", "report.html"), "report.html"),
        picture("verdicts", pages.run("report"), "Views:", "verdict."),
    ]
