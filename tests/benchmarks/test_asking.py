"""The benchmark of asking a study runs, and its table has what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.asking import fill, main, one_element, search_of, to_markdown
from benchmarks.tables import README

from tokensweep.search.spec import Sampler
from tokensweep.search.study import Study


def test_the_filled_study_has_as_many_told_trials_and_an_element_adds_one(tmp_path: Path) -> None:
    folder = tmp_path / "asking" / "search"
    fill(folder, trials=15)
    assert Study(search_of(Sampler.random, trials=15), folder, steps=40).told() == 15
    costs = one_element(folder, Sampler.tpe, trials=15, number=0)
    assert set(costs) == {"open", "ask", "report", "tell"}
    assert Study(search_of(Sampler.random, trials=16), folder, steps=40).told() == 16


def test_the_table_has_medians() -> None:
    rounds = [{"open": 1.0, "ask": a, "report": 0.5, "tell": 0.25} for a in (3.0, 1.0, 2.0)]
    where = {
        "processor": "x",
        "cores": 1,
        "load": 0.5,
        "date": "d",
        "python": "3",
        "versions": {},
        "code": "c",
    }
    text = to_markdown({"cases": {"7": {"tpe": rounds}}, "where": where})
    assert "| tpe | 1 | 2 | 0.5 | 0.25 | 3 |" in text


@pytest.mark.slow
def test_the_quick_size_runs_and_keeps_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = README.read_text()
    main(["--quick"])
    assert "### 12 trials" in capsys.readouterr().out
    assert README.read_text() == before
