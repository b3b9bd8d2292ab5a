"""A report says what its numbers are about, in the terminal and on disk."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from tokensweep_analysis.report import render, to_markdown, write_report
from tokensweep_analysis.tables import compare

Make = Callable[..., None]


def _printed(store: Path, *, width: int = 200) -> str:
    console = Console(width=width, file=StringIO())
    for part in render(compare(store, "demo")):
        console.print(part)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_every_table_says_estimand_scale_sizes_seeds_code_and_note(store: Path) -> None:
    text = to_markdown(compare(store, "demo"))
    for fact in (
        "estimand E4: the method, questions like these",
        "scale tiny",
        "3 questions",
        "4 samples of each",
        "seeds 0 1",
        "code abc123",
        "not adjusted for the number of comparisons",
        "Scale tiny tests the machinery and is no evidence about language models.",
    ):
        assert fact in text


def test_numbers_stand_in_points_with_their_interval(store: Path) -> None:
    # (4 + 2 + 0 + 4 + 1 + 1) correct of 24 samples is 50 %; arm top has 15 of 24, which is 62.5 %.
    text = to_markdown(compare(store, "demo"))
    assert "| all | 2/2 | 50.0 [0.0, 100.0] |" in text
    assert "+12.5 [" in text


def test_failed_and_missing_runs_stand_below_the_table(store: Path) -> None:
    text = to_markdown(compare(store, "demo"))
    assert "| ops | top | 2 | t2 | failed | loss is NaN at step 3 \\| batch [7] |" in text
    assert "| ops | top | 3 | t3 | missing |  |" in text


def test_the_terminal_shows_the_same_numbers_and_takes_brackets_literally(store: Path) -> None:
    text = _printed(store)
    assert "50.0 [0.0,100.0]" in text
    assert "loss is NaN at step 3 | batch [7]" in text


def test_an_interval_is_not_torn_apart_in_a_narrow_terminal(store: Path) -> None:
    assert "[0.0,100.0]" in _printed(store, width=80)


def test_scores_without_spread_are_shown_without_an_interval(
    tmp_path: Path, make_run: Make, make_sweep: Make
) -> None:
    make_run(tmp_path, "a0", correct=[4, 4])
    make_sweep(tmp_path, [("all", 0, "a0")])
    text = to_markdown(compare(tmp_path, "demo"))
    assert "100.0 [none]" in text
    assert "no spread between runs or questions there is no interval" in text


def test_a_sweep_without_any_result_still_has_a_report(tmp_path: Path, make_sweep: Make) -> None:
    make_sweep(tmp_path, [("all", 0, "a0")])
    text = to_markdown(compare(tmp_path, "demo"))
    assert "| all | 0/1 |" in text
    assert "estimand none yet" in text


def test_the_report_is_written_as_markdown_and_csv(store: Path) -> None:
    files = write_report(compare(store, "demo"), store / "sweeps" / "demo" / "report")
    assert files.markdown.read_text().startswith("# demo\n")
    assert list(pd.read_csv(files.csv)["arm"]) == ["all", "top"]
    assert sorted(path.name for path in files.csv.parent.iterdir()) == ["report.md", "table.csv"]


def test_a_report_that_cannot_be_written_names_the_file(store: Path) -> None:
    (store / "occupied").write_text("")
    with pytest.raises(OSError, match=r"report\.md could not be written"):
        write_report(compare(store, "demo"), store / "occupied")
