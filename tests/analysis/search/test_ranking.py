"""Which trials are best, and how many there are of each kind."""

from __future__ import annotations

from pathlib import Path

from tests.analysis.search.made import ACCURACY, TOKENS, a_pruned, a_study, a_trial

from tokensweep_analysis.search.ranking import Counts, counts_of, front, ranking, running_best, short_names
from tokensweep_analysis.search.stored import Goal


def test_only_trials_that_count_and_have_ended_are_told(tmp_path: Path) -> None:
    rows = [
        a_trial(0, 0.5),
        a_trial(1, 0.5, counted=False),
        a_pruned(2),
        a_trial(3, state="failed"),
        a_trial(4, state="failed", counted=False),
        a_trial(5, state="running"),
        a_trial(6, state="waiting"),
        a_trial(7, state="waiting"),
    ]
    counts = counts_of(a_study(tmp_path, rows, planned=24))
    assert counts == Counts(planned=24, complete=1, pruned=1, failed=1, running=1, waiting=2, uncounted=2)
    assert counts.told == 3


def test_the_best_stands_first_and_ties_by_number(tmp_path: Path) -> None:
    study = a_study(tmp_path, [a_trial(0, 0.5), a_trial(1, 0.75), a_pruned(2), a_trial(3, 0.75)])
    assert [each.number for each in ranking(study)] == [1, 3, 0]
    assert front(study) == []


def test_the_least_stands_first_when_that_is_better(tmp_path: Path) -> None:
    study = a_study(tmp_path, [a_trial(0, 50.0), a_trial(1, 20.0)], objectives=[TOKENS])
    assert [each.number for each in ranking(study)] == [1, 0]


def test_the_front_holds_what_no_other_beats_and_twins(tmp_path: Path) -> None:
    values = [(0.5, 10.0), (0.6, 20.0), (0.5, 20.0), (0.6, 20.0), (0.4, 9.0), (0.4, 10.0)]
    rows = [a_trial(number, value) for number, value in enumerate(values)]
    study = a_study(tmp_path, rows, objectives=[ACCURACY, TOKENS])
    # Trial 2 is beaten by 0 and 1, trial 5 by 0 and 4; 1 and 3 are equal, so neither beats the other.
    assert front(study) == [0, 1, 3, 4]
    assert [each.number for each in ranking(study)] == [1, 3, 0, 4, 2, 5]


def test_the_front_stands_by_accuracy_wherever_that_is(tmp_path: Path) -> None:
    rows = [a_trial(0, (10.0, 0.5)), a_trial(1, (20.0, 0.6)), a_trial(2, (30.0, 0.55))]
    study = a_study(tmp_path, rows, objectives=[TOKENS, ACCURACY])
    assert [each.number for each in ranking(study)] == [1, 0, 2]


def test_the_best_so_far_never_gets_worse() -> None:
    assert running_best([0.2, 0.1, 0.4], Goal("accuracy", "maximize")) == [0.2, 0.2, 0.4]
    assert running_best([5, 7, 3], Goal("tokens", "minimize")) == [5, 5, 3]


def test_a_key_is_called_by_its_shortest_end_that_no_other_has() -> None:
    names = short_names(["method.ratio.p", "optim.p", "optim.lr", "p"])
    assert names == {"method.ratio.p": "ratio.p", "optim.p": "optim.p", "optim.lr": "lr", "p": "p"}
