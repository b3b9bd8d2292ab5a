"""The page of a search: plots with their numbers, everything escaped, and not too large."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.analysis.page.made import a_comparison
from tests.analysis.page.outline import Element, outline
from tests.analysis.search.made import ACCURACY, FRACTION, TOKENS, a_pruned, a_study, a_trial, write_search

from tokensweep.search.space import Parameter
from tokensweep_analysis.page import to_html, write_page
from tokensweep_analysis.search.figures import height_of, ticks_of
from tokensweep_analysis.search.summary import Summary
from tokensweep_analysis.tables import compare

HOSTILE = "<script>alert('x')</script>\"& $x$"
SPACE: list[dict[str, Any]] = [
    {"key": "kind", "choices": [HOSTILE, "all"]},
    {**FRACTION, "when": {"kind": [HOSTILE]}},
    {"key": "optim.lr", "low": 1e-6, "high": 1e-3, "log": True},
]


def _trials(number: int, *, objectives: int = 1) -> list[dict[str, Any]]:
    rng = np.random.default_rng(4)
    rows = []
    for place in range(number):
        params: dict[str, Any] = {
            "kind": SPACE[0]["choices"][place % 2],
            "optim.lr": 10 ** rng.uniform(-6, -3),
        }
        if place % 2 == 0:
            params["method.fraction"] = float(rng.uniform(0.05, 1))
        if place % 4 == 3:
            rows.append(a_pruned(place, params=params))
        else:
            values = (float(rng.integers(0, 17)) / 16, float(rng.integers(1000, 9000)))
            rows.append(a_trial(place, values[:objectives], params=params))
    return rows


def _page(folder: Path, rows: Sequence[dict[str, Any]], **changes: Any) -> str:
    """The page of trials without samples."""
    search = Summary.of(a_study(folder, rows, **{"space": SPACE, **changes}), a_comparison())
    return to_html(search.comparison, search=search)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Element:
    """The page of a store."""
    store = tmp_path_factory.mktemp("store")
    sweep = write_search(store, _trials(16), space=SPACE)
    return outline(write_page(compare(store, "demo"), store, sweep / "report").read_text())


def test_a_page_of_a_search_has_its_own_parts(written: Element) -> None:
    assert [heading.text for heading in written.all("h2")] == [
        "Search",
        "History",
        "Parameters",
        "Importance",
        "The best trials by benchmark",
        "Training of the best trials",
        "Provenance",
    ]
    said = written.find("search").text
    assert "16 trials planned, 16 told: 12 complete, 4 pruned (at step 2), 0 failed" in said
    assert "tokensweep confirm demo --top 3" in said
    assert "tokensweep sweep" not in written.find("provenance").text


def test_it_can_be_read_without_seeing_it(written: Element) -> None:
    ids = [e.attributes["id"] for e in written.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    levels = [int(e.name[1]) for e in written.all() if re.fullmatch(r"h[1-6]", e.name)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for table in written.all("table"):
        assert next(table.all("caption")).text
        assert {e.attributes.get("scope") for e in table.all("th")} == {"col", "row"}
    plots = [svg for figure in written.all("figure") for svg in figure.all("svg")]
    assert all(svg.attributes["role"] == "img" and len(svg.attributes["aria-label"]) > 40 for svg in plots)
    folded = [next(e.all("summary")).text for e in written.all("details")]
    names = [name for name in folded if "numbers as tables" in name]
    assert len(set(names)) == len(names) == 4


def test_the_plots_say_their_numbers(tmp_path: Path) -> None:
    rows = [a_trial(0, 0.5), a_trial(1, 0.25), a_trial(3, 0.75), a_pruned(2)]
    page = outline(_page(tmp_path, rows, space=[FRACTION]))
    history = next(page.find("history").all("svg")).attributes["aria-label"]
    assert history == (
        "accuracy by number of the trial, 3 complete trials, 1 pruned trial. Best so far: 50.0 at trial 0, "
        "75.0 at trial 3."
    )
    figure = next(page.find("parameters").all("figure"))
    assert figure.attributes["class"] == "wide"
    assert figure.attributes["tabindex"] == "0"
    label = next(figure.all("svg")).attributes["aria-label"]
    # Fractions are 0.05 + 0.09 * number.
    assert "trial-003: fraction 0.32, accuracy 75.0; trial-000: fraction 0.05, accuracy 50.0;" in label
    assert "3 complete trials, 1 pruned trial" in label


def test_hostile_values_are_escaped_everywhere(tmp_path: Path) -> None:
    page = _page(tmp_path, _trials(16))
    assert page.count("<script>") == 1  # the page's own
    assert "&lt;script&gt;alert(" in page
    outline(page)


def test_two_objectives_have_a_scatter_with_the_front(tmp_path: Path) -> None:
    values = [(0.5, 10.0), (0.6, 20.0), (0.5, 20.0)]
    rows = [a_trial(number, value) for number, value in enumerate(values)]
    page = outline(_page(tmp_path, rows, space=[FRACTION], objectives=[ACCURACY, TOKENS]))
    label = next(svg for svg in page.find("front").all("svg") if "role" in svg.attributes).attributes[
        "aria-label"
    ]
    assert "the front, 2 trials: trial-000: 50.0 and 10; trial-001: 60.0 and 20." in label
    assert len([figure for figure in page.find("history").all("figure")]) == 2
    assert "There is no single best." in page.find("search").text


def test_three_objectives_have_a_scatter_per_pair(tmp_path: Path) -> None:
    hours = {"name": "device_hours", "direction": "minimize"}
    rows = [a_trial(number, (0.5, 10.0 + number, 3.0 - number)) for number in range(3)]
    page = outline(_page(tmp_path, rows, space=[FRACTION], objectives=[ACCURACY, TOKENS, hours]))
    assert len(list(page.find("front").all("figure"))) == 3


@pytest.mark.parametrize(
    "rows",
    [[], [a_trial(0, state="waiting", params={}, runs={})], [a_pruned(0), a_pruned(1)], [a_trial(0, 0.5)]],
)
def test_a_page_is_whole_however_far_the_search_is(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    page = _page(tmp_path, rows, space=[FRACTION])
    assert page == _page(tmp_path, rows, space=[FRACTION])
    outline(page)


def test_trials_with_one_value_and_a_space_without_parameters_can_be_drawn(tmp_path: Path) -> None:
    rows = [a_trial(number, 0.5, params={}) for number in range(12)]
    assert "all of it is that one's" in outline(_page(tmp_path, rows, space=[])).find("importance").text


def test_values_stand_where_their_scale_puts_them() -> None:
    log = Parameter(key="lr", low=1e-6, high=1e-2, log=True)
    assert [height_of(log, value) for value in (1e-6, 1e-4, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert [text for _, text in ticks_of(log)] == ["1e-06", "1e-05", "0.0001", "0.001", "0.01"]
    plain = Parameter(key="n", low=2, high=10, integer=True)
    assert [height_of(plain, value) for value in (2, 4, 10)] == pytest.approx([0, 0.25, 1])
    assert [text for _, text in ticks_of(plain)] == ["2", "6", "10"]
    choice = Parameter(key="kind", choices=(True, 2, None))
    assert [height_of(choice, value) for value in (True, 2, None)] == pytest.approx([0, 0.5, 1])
    assert [text for _, text in ticks_of(choice)] == ["true", "2", "null"]
    assert height_of(Parameter(key="kind", choices=("only",)), "only") == 0.5


def test_a_thousand_trials_are_drawn_in_seconds_and_stay_small(tmp_path: Path) -> None:
    study_rows = _trials(1000)
    start = time.process_time()
    page = _page(tmp_path, study_rows)
    assert time.process_time() - start < 20
    assert len(page) < 2_000_000
    assert "Of each kind at most 300 are drawn" in page
