"""What a person sees of a sweep in MLflow: saved views, runs, comparisons, answers and the report.

A real server and a real browser; the formats behind the views are MLflow's own and may change with it.
"""

from __future__ import annotations

import pytest
from tests.ui.browser import Browser
from tests.ui.pages import Pages

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # mlflow keeps its connections until the end
]


def _headers(browser: Browser) -> dict[str, int]:
    """The table's columns from left to right, and how many pixels of their names are cut off."""
    found = browser.script(
        """return [...document.querySelectorAll('.ag-header-cell')].map(cell => {
            const boxes = [...cell.querySelectorAll('*')].filter(box => box.clientWidth > 0);
            const cut = Math.max(0, ...boxes.map(box => box.scrollWidth - box.clientWidth));
            return [cell.getBoundingClientRect().left, cell.innerText.trim(), cut];
        })"""
    )
    return {name: cut for _, name, cut in sorted(found) if name}


def test_the_address_that_a_sync_prints_shows_the_arms_means(browser: Browser, pages: Pages) -> None:
    browser.open(pages.view)
    browser.wait_for("4 matching runs", "Group: all", "Group: top", "Group by: arm", "Sort: pooled/pass_at_1")
    assert (
        browser.script("return document.querySelector('input[value*=kind]').value") == 'tags.kind = "train"'
    )
    # (4 + 2 + 0) / 12 and (4 + 2 + 1) / 12 are on average 0.54; (4 + 3 + 0.5) / 12 is 0.625.
    browser.wait_for("0.54", "0.63")
    bars = "[data-testid='experiment-view-compare-runs-chart-area'] .barlayer .point"
    browser.wait(lambda: browser.count(bars) >= 4, "a bar per arm in two charts")
    assert "results (2)" in browser.text()
    assert "training (2)" in browser.text()


def test_the_table_of_a_view_has_its_columns_first_and_their_names_whole(
    browser: Browser, pages: Pages
) -> None:
    browser.open(pages.saved("tokensweep", "TABLE"))
    browser.wait_for("4 matching runs", "final/ops/length_mean")
    expected = {
        "arm": 0,
        "seed": 0,
        "status": 0,
        "pooled/pass_at_1": 0,
        "final/ops/pass_at_1": 0,
        "final/ops/length_mean": 0,
        "final/seconds": 0,
    }
    browser.wait(lambda: set(expected) <= set(_headers(browser)), "all columns of the view")
    shown = {name: cut for name, cut in _headers(browser).items() if name in expected}
    assert (list(shown), shown) == (list(expected), expected)


def test_means_have_their_intervals_and_p_beside_them(browser: Browser, pages: Pages) -> None:
    browser.open(pages.saved("tokensweep-arms", "TABLE"))
    browser.wait_for("2 matching runs", "top (mean of 2)", "all (mean of 2)")
    browser.wait_for("pooled/pass_at_1/ci_low", "pooled/pass_at_1/ci_high", "0.625", "2/3")
    rows = browser.script("return [...document.querySelectorAll('.ag-row')].map(row => row.innerText)")
    assert any("0.25" in row and "0.75" in row for row in rows)


def test_summaries_can_be_seen_as_differences_from_the_baseline(browser: Browser, pages: Pages) -> None:
    browser.open(pages.saved("tokensweep-arms", "CHART"))
    browser.wait_for("difference/pooled/pass_at_1", "differences (1)")
    browser.scroll_to("differences")
    browser.wait_for("Runs difference view", "Show change from baseline", "Compare by")
    # 0.625 is 0.125 more than 0.5, which MLflow writes with two digits.
    browser.wait_for("0.63 +0.13")


def test_single_runs_have_parallel_coordinates(browser: Browser, pages: Pages) -> None:
    browser.open(pages.saved("tokensweep-runs", "CHART"))
    browser.wait_for("axes (1)", "Parallel Coordinates", "ops top seed 0")
    browser.wait(lambda: browser.count(".parcoords g.axis") == 3, "axes for arm, pass@1 and length")
    browser.scroll_to("training")
    browser.wait_for("reward", "Step")


def test_every_view_is_in_the_menu_by_its_name(browser: Browser, pages: Pages) -> None:
    browser.open(pages.every_run())
    browser.wait_for("7 matching runs", "Views")
    browser.script(
        "[...document.querySelectorAll('button')].find(b => b.innerText.trim() === 'Views')"
        ".dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))"
    )
    browser.wait_for(
        "tokensweep: demo", "tokensweep: demo, every run", "tokensweep: demo, means and intervals"
    )


def test_the_runs_page_names_runs_by_setting_arm_and_seed(browser: Browser, pages: Pages) -> None:
    browser.open(pages.every_run())
    browser.wait_for("ops all seed 0", "ops top seed 1", "top (mean of 2)", "report")


def test_two_runs_can_be_compared(browser: Browser, pages: Pages) -> None:
    browser.open(pages.compare("ops all seed 0", "ops top seed 0"))
    browser.wait_for("Comparing 2 Runs from 1 Experiment", "ops all seed 0", "ops top seed 0", "arm")


def test_answers_of_runs_lie_side_by_side(browser: Browser, pages: Pages) -> None:
    browser.open(pages.saved("tokensweep-runs", "ARTIFACT"))
    browser.wait_for("Table: questions.json", "Group by: question", "Compare: avg@n", "ops/q0", "ops/q2")
    browser.wait_for("0.75", "0.25")  # 3 of 4 for the second question in `top`, 1 of 4 for the third


def test_the_report_is_a_page_of_its_own_run(browser: Browser, pages: Pages) -> None:
    browser.open(pages.artefact("report", "report.html"))
    browser.wait_for("report.html", "claims.csv", "ranking.csv")
    browser.wait(lambda: browser.count("iframe"), "the frame of the report")
    browser.driver.switch_to.frame(browser.driver.find_element("css selector", "iframe"))
    browser.wait_for("demo", "the page is alive")


def test_the_page_of_the_report_starts_with_views_and_verdicts(browser: Browser, pages: Pages) -> None:
    browser.open(pages.run("report"))
    browser.wait_for("tokensweep: demo, means and intervals", "verdict.top_not_worse", "inconclusive")
