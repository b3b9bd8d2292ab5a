"""The report of a search ranks trials, says what the best is worth, and calls no pruned trial a failure."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from tests.analysis.search.made import (
    ACCURACY,
    FRACTION,
    TOKENS,
    a_pruned,
    a_search,
    a_trial,
    write_search,
    write_trials,
)

from tokensweep_analysis.report import write_report
from tokensweep_analysis.tables import compare

# Shares of 16 samples over four questions, see write_search.
_VALUES = [0.25, 0.5, 0.375, 0.6875, 0.5]
_LONG = {"key": "method.token_weights.entropy.fraction", "low": 0.05, "high": 1.0}


def _trials() -> list[dict[str, Any]]:
    """Five complete trials of one seed, one pruned, one failed, one running, one waiting."""
    return [
        *(a_trial(number, value) for number, value in enumerate(_VALUES)),
        a_pruned(5, step=3),
        a_trial(6, state="failed", reason="CUDA error\nsecond line"),
        a_trial(7, state="running"),
        a_trial(8, state="waiting", params={}, runs={}),
    ]


def _report(sweep: Path) -> tuple[str, str, pd.DataFrame]:
    """Markdown, terminal, search.csv."""
    store = sweep.parent.parent
    files = write_report(compare(store, "demo"), sweep / "report")
    console = Console(width=100, file=StringIO())
    for part in files.renderables:
        console.print(part)
    assert isinstance(console.file, StringIO)
    table = sweep / "report" / "search.csv"
    assert table in files.tables
    return files.markdown.read_text(), console.file.getvalue(), pd.read_csv(table)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _of(tmp_path: Path, trials: Sequence[dict[str, Any]], **changes: Any) -> tuple[str, str, pd.DataFrame]:
    return _report(write_search(tmp_path, trials, **changes))


def test_a_search_is_told_in_the_terminal_and_in_the_file(tmp_path: Path) -> None:
    markdown, printed, _ = _of(tmp_path, _trials(), planned=24)
    for text in (markdown, _flat(printed)):
        for fact in (
            "24 trials planned, 7 told: 5 complete, 1 pruned (at step 3), 1 failed; 1 running, 1 waiting.",
            "Sampler tpe, pruner asha, to maximize accuracy.",
            "Found: trial-003, accuracy 68.8.",
            # (0.25 + 0.5 + 0.375 + 0.6875 + 0.5) / 5 = 0.4625
            "Shrunk towards the mean of all, 46.2, it is ",
            "The maximum of a search is too high by selection",
            "It is no verdict: tokensweep confirm demo --top 3 gives one, on fresh seeds and questions.",
            "the luck of that seed is not in the noise, so even the shrunk value is too high.",
            "Importance of parameters is not shown: it takes 10 complete trials, got 5.",
            "Run at scale tiny, seeds 0, 4 questions, 4 samples of each, code abc123.",
            "Scale tiny tests the machinery and is no evidence about language models.",
        ):
            assert text.count(fact) == 1, fact


def test_the_ranking_has_the_complete_trials_best_first(tmp_path: Path) -> None:
    markdown, _, table = _of(tmp_path, _trials())
    rows = [line.split(" | ")[0] for line in markdown.splitlines() if line.startswith("| trial-")]
    assert rows == [f"| trial-{number:03d}" for number in (3, 1, 4, 2, 0)]
    assert list(table["number"]) == [3, 1, 4, 2, 0, 5, 6, 7, 8]
    assert list(table["accuracy"][:5]) == [0.6875, 0.5, 0.5, 0.375, 0.25]
    assert table["accuracy"][5:].isna().all()
    assert list(table["state"][5:]) == ["pruned", "failed", "running", "waiting"]
    assert list(table["params.method.fraction"][:1]) == pytest.approx([0.05 + 0.9 * 0.3])
    pruned = table[table["number"] == 5].iloc[0]
    assert (pruned["pruned_step"], pruned["runs"], pruned["seeds"]) == (3, "r5s0", 0)


def test_shrunk_values_lie_between_the_found_ones_and_the_mean(tmp_path: Path) -> None:
    table = _of(tmp_path, _trials())[2][:5]
    mean = table["accuracy"].mean()
    above = table[table["accuracy"] > mean]
    assert ((above["shrunk"] > mean) & (above["shrunk"] < above["accuracy"])).all()
    assert (table["standard_error"] > 0).all()


def test_no_trial_is_called_a_failure_but_those_that_failed(tmp_path: Path) -> None:
    markdown, printed, _ = _of(tmp_path, _trials())
    for text in (markdown, printed):
        assert "trial-006, run r6s0: CUDA error\n" in text
        assert "second line" not in text
        for word in ("Not in the table", "missing", "No contrasts", "trial-005", "trial-007", "interval"):
            assert word not in text


def test_a_complete_trial_whose_runs_are_gone_is_named(tmp_path: Path) -> None:
    sweep = write_search(tmp_path, _trials())
    (tmp_path / "runs" / "r3s0" / "events.jsonl").unlink(missing_ok=True)
    for path in (tmp_path / "runs" / "r3s0").glob("evals/*/samples*"):
        path.unlink()
    markdown = _report(sweep)[0]
    assert "## Not in the table" in markdown
    assert "Not shrunk, without scores of the same questions: trial-003." in markdown


def test_two_seeds_have_the_luck_of_training_in_the_noise(tmp_path: Path) -> None:
    trials = [a_trial(n, v, runs={"0": f"r{n}s0", "1": f"r{n}s1"}) for n, v in enumerate(_VALUES)]
    markdown = _of(tmp_path, trials)[0]
    assert "one training seed" not in markdown
    assert "seeds 0 1" in markdown


def test_before_a_trial_is_complete_nothing_is_ranked(tmp_path: Path) -> None:
    markdown, printed, table = _of(tmp_path, [a_trial(0, state="running"), a_trial(1, state="waiting")])
    for text in (markdown, _flat(printed)):
        assert "No trial is complete yet, so there is nothing to rank." in text
        assert "verdict" not in text
        assert "| trial" not in text
    assert len(table) == 2


def test_a_search_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    markdown, _, table = _of(tmp_path, [], planned=24)
    assert "24 trials planned, 0 told" in markdown
    assert table.empty


def test_when_all_trials_are_pruned_nothing_is_ranked(tmp_path: Path) -> None:
    markdown = _of(tmp_path, [a_pruned(0, step=2), a_pruned(1, step=6)])[0]
    assert "2 pruned (at steps 2 to 6), 0 failed" in markdown
    assert "No trial is complete yet" in markdown
    assert "Not in the table" not in markdown


def test_one_trial_is_found_but_not_shrunk(tmp_path: Path) -> None:
    markdown = _of(tmp_path, [a_trial(0, 0.5)])[0]
    assert "Found: trial-000, accuracy 50.0." in markdown
    assert (
        "By how much is not estimated: it takes 4 complete trials with the same questions, got 1." in markdown
    )
    assert "tokensweep confirm demo --top 1 gives one" in markdown
    assert "| trial | accuracy | fraction | runs |" in markdown


def test_trials_that_differ_no_more_than_their_noise_become_one(tmp_path: Path) -> None:
    markdown = _of(tmp_path, [a_trial(number, 0.5) for number in range(5)])[0]
    assert "The trials differ no more than their noise explains." in markdown


def test_two_objectives_have_a_front_and_no_best(tmp_path: Path) -> None:
    values = [(0.25, 9.0), (0.5, 1000.0), (0.375, 2000.0), (0.6875, 3000.0)]
    trials = [a_trial(number, value) for number, value in enumerate(values)]
    markdown, _, table = _of(tmp_path, trials, objectives=[ACCURACY, TOKENS])
    assert "On the front: 3 of 4 complete trials" in markdown
    assert "There is no single best. The most accurate: trial-003, 68.8." in markdown
    assert "What a search picks is too good by selection" in markdown
    assert "| trial | accuracy | shrunk | tokens | front | fraction | runs |" in markdown
    assert "| trial-002 | 37.5 |" in markdown
    assert "2,000 | no |" in markdown
    assert list(table["front"]) == [True, True, True, False]
    assert list(table["tokens"]) == [3000, 1000, 9, 2000]


def test_a_search_for_few_tokens_has_a_minimum_that_is_too_low(tmp_path: Path) -> None:
    sweep = write_search(tmp_path, [a_trial(number, value) for number, value in enumerate(_VALUES)])
    tokens = [a_trial(number, 100.0 * value) for number, value in enumerate(_VALUES)]
    write_trials(tmp_path, a_search(tokens, objectives=[TOKENS]))
    markdown = _report(sweep)[0]
    assert "Found: trial-000, tokens 25. The minimum of a search is too low by selection" in markdown
    assert "By how much is not estimated: accuracy is no objective" in markdown
    assert "tokensweep confirm gives one where accuracy is among the objectives" in markdown


def test_a_parameter_that_exists_in_some_trials_says_in_how_many(tmp_path: Path) -> None:
    space = [{"key": "kind", "choices": ["entropy", "all"]}, {**_LONG, "when": {"kind": ["entropy"]}}]
    trials = [
        a_trial(number, (number % 7) / 8, params={"kind": "all"})
        if number % 3 == 0
        else a_trial(number, (number % 7) / 8, params={"kind": "entropy", _LONG["key"]: number / 20})
        for number in range(12)
    ]
    markdown = _of(tmp_path, trials, space=space)[0]
    # Trials 0, 3, 6 and 9 are without it.
    assert "Of 12 complete trials a parameter existed in: fraction for 8." in markdown
    assert "fraction is method.token_weights.entropy.fraction." in markdown
    assert "| trial-006 | 75.0 |" in markdown
    assert "| parameter | importance % |  | trials |" in markdown
    assert "The best 10 of 12 complete trials; search.csv has all." in markdown


def test_hostile_values_do_not_break_tables(tmp_path: Path) -> None:
    hostile = "a|b\n<img src=x>\x1b[31m[red]"
    space = [{"key": "kind", "choices": [hostile, "all"]}]
    trials = [a_trial(number, 0.5, params={"kind": hostile}) for number in range(4)]
    markdown, printed, table = _of(tmp_path, trials, space=space)
    assert "a\\|b &lt;img src=x>�[31m[red]" in markdown
    assert "a|b <img src=x>�[31m[red]" in printed
    assert "\x1b" not in printed
    assert list(table["params.kind"]) == [hostile] * 4


def test_a_damaged_file_stops_the_report_by_name(tmp_path: Path) -> None:
    sweep = write_search(tmp_path, _trials())
    write_trials(tmp_path, a_search([a_trial(0, state="odd")]))
    with pytest.raises(ValueError, match=r"trials.json: trials\[0\].state"):
        write_report(compare(tmp_path, "demo"), sweep / "report")


def test_without_trials_the_report_is_about_arms(tmp_path: Path) -> None:
    sweep = write_search(tmp_path, _trials())
    (sweep / "search" / "trials.json").unlink()
    files = write_report(compare(tmp_path, "demo"), sweep / "report")
    assert "No contrasts: the sweep names no baseline." in files.markdown.read_text()
    assert [path.name for path in files.tables] == ["ranking.csv", "contrasts.csv", "claims.csv"]


def test_null_and_true_are_written_as_in_a_config(tmp_path: Path) -> None:
    space = [FRACTION, {"key": "kl", "choices": [None, 0.5]}, {"key": "on", "choices": [True, False]}]
    trials = [a_trial(0, 0.5, params={"method.fraction": 0.5, "kl": None, "on": True})]
    markdown, _, table = _of(tmp_path, trials, space=space)
    assert "| trial-000 | 50.0 | 0.5 | null | true | 1 |" in markdown
    assert table["params.kl"].isna().tolist() == [True]  # pandas reads "null" as nothing
    assert ",null," in (tmp_path / "sweeps/demo/report/search.csv").read_text()
