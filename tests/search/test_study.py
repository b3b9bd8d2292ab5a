"""The study: trials are counted once, repetitions and the dead are dealt with, and anybody can go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
from tests.search.studies import ask, choices, everybody_lives, run, search_of, space_of, study_of

from tokensweep.search.space import Parameter, Space
from tokensweep.search.spec import Objective, Pruner, Sampler

LINE = space_of("x=interval(0,1)")


@pytest.mark.parametrize("sampler", list(Sampler))
def test_every_sampler_tells_as_many_trials_as_planned(sampler: Sampler, tmp_path: Path) -> None:
    space = space_of("x=interval(0,1)", "n=int(interval(1,9))", "m=a,b")
    study = study_of(tmp_path, search_of(space, trials=14, sampler=sampler))
    values = run(study, lambda params: float(params["x"] or 0.0))
    assert len(values) == 14
    assert study.missing() == 0


@pytest.mark.parametrize("sampler", [Sampler.random, Sampler.tpe, Sampler.gp, Sampler.nsgaii])
def test_two_objectives_are_told_together(sampler: Sampler, tmp_path: Path) -> None:
    search = search_of(LINE, trials=12, sampler=sampler, objectives=(Objective.accuracy, Objective.tokens))
    study = study_of(tmp_path, search)
    for element in range(12):
        asked = ask(study, element)
        x = float(asked.params["x"] or 0.0)
        study.tell(asked, [x, 100 * x])
    assert all(len(row["values"]) == 2 for row in study.rows())


def test_a_conditional_key_is_asked_for_where_it_exists(tmp_path: Path) -> None:
    space = Space(
        (
            choices("m", "a", "b"),
            Parameter(key="p", low=0, high=1, when={"m": ("b",)}),
        )
    )
    study = study_of(tmp_path, search_of(space, trials=16))
    run(study, lambda params: float(params.get("p") or 0.0))
    kinds = Counter(("p" in row["params"], row["params"]["m"]) for row in study.rows() if row["counted"])
    assert set(kinds) <= {(True, "b"), (False, "a")}
    assert kinds[False, "a"] == 1  # without p, "a" is one setting only, and none is told twice
    assert sum(kinds.values()) == 16


def test_nothing_is_told_twice_and_a_small_space_ends_by_itself(tmp_path: Path) -> None:
    study = study_of(tmp_path, search_of(Space((choices("n", 1, 2, 3),)), trials=10))
    assert sorted(run(study, lambda params: float(params["n"] or 0))) == [1.0, 2.0, 3.0]
    told = [row for row in study.rows() if row["counted"]]
    assert len(told) == 3
    assert study.ask(9, is_alive=everybody_lives) is None


def test_looking_at_a_study_writes_nothing(tmp_path: Path) -> None:
    search = search_of(space_of("n=interval(0,1)"))
    ask(study := study_of(tmp_path, search))
    journal = study.folder / "journal.log"
    before = journal.read_bytes()
    assert len(study_of(tmp_path, search).rows()) == 1
    assert journal.read_bytes() == before


def test_the_same_study_gives_the_same_values_in_any_process(tmp_path: Path) -> None:
    def values(folder: Path, *, reopen: bool) -> list[float]:
        study = study_of(folder, search_of(LINE, trials=15))
        found = []
        for element in range(15):
            study = study_of(folder, study.search) if reopen else study
            asked = ask(study, element)
            found.append(float(asked.params["x"] or 0.0))
            study.tell(asked, [found[-1]])
        return found

    one = values(tmp_path / "one", reopen=False)
    assert one == values(tmp_path / "two", reopen=True)
    assert len(set(one)) == 15


def test_a_dead_element_s_trial_is_told_as_failed_and_its_values_come_next(tmp_path: Path) -> None:
    study = study_of(tmp_path, search_of(LINE, trials=3))
    lost = ask(study, 0)
    found = study.ask(1, is_alive=lambda element: element != 0)
    assert found is not None
    assert found.params == lost.params
    assert found.number != lost.number
    rows = {row["number"]: row for row in study.rows()}
    assert rows[lost.number]["state"] == "failed"
    assert rows[lost.number]["reason"] == "element 0 is gone"
    assert [row["counted"] for row in rows.values()] == [False, True]
    assert study.missing() == 2


def test_values_whose_elements_die_every_time_are_given_up(tmp_path: Path) -> None:
    study = study_of(tmp_path, search_of(LINE, trials=1))
    first = ask(study, 0)
    for element in (1, 2):
        again = study.ask(element, is_alive=lambda _: False)
        assert again is not None
        assert again.params == first.params
    assert study.ask(3, is_alive=lambda _: False) is None  # the third failure counts: the trial is told
    assert [row["counted"] for row in study.rows()] == [False, False, True]
    assert study.missing() == 0


def test_an_element_that_was_stopped_goes_on_with_its_trial(tmp_path: Path) -> None:
    study = study_of(tmp_path, search_of(LINE, trials=2))
    asked = ask(study, 5)
    study.report(asked, 4, 0.5)
    later = study_of(tmp_path, study.search).resume(5)
    assert later is not None
    assert (later.number, later.params, later.reported) == (asked.number, asked.params, 4)
    assert study.resume(6) is None


def test_only_what_was_left_behind_is_given_to_who_asks_for_that(tmp_path: Path) -> None:
    study = study_of(tmp_path, search_of(LINE, trials=5))
    ask(study, 0)
    assert study.ask(1, is_alive=everybody_lives, only_waiting=True) is None
    assert study.ask(1, is_alive=lambda element: element != 0, only_waiting=True) is not None


def test_who_dies_while_choosing_leaves_nothing(tmp_path: Path) -> None:
    study = study_of(tmp_path, search_of(LINE, trials=2))
    study._study.ask()  # a process that got this far and no further
    asked = ask(study, 0)
    rows = {row["number"]: row for row in study.rows()}
    assert rows[0]["state"] == "failed"
    assert not rows[0]["counted"]
    assert asked.number == 1
    assert study.missing() == 1


def test_a_trial_that_fails_for_its_values_is_told_once(tmp_path: Path) -> None:
    study = study_of(tmp_path, search_of(Space((choices("n", 1, 2),)), trials=2))
    bad = ask(study, 0)
    study.fail(bad, "no number", again=False)
    other = ask(study, 1)
    assert other.params != bad.params
    study.tell(other, [0.5])
    assert [row["state"] for row in study.rows() if row["counted"]] == ["failed", "complete"]
    assert study.ask(2, is_alive=everybody_lives) is None


def test_a_study_grows_without_repeating_a_trial(tmp_path: Path) -> None:
    small = study_of(tmp_path, search_of(LINE, trials=4))
    run(small, lambda params: float(params["x"] or 0.0))
    before = [row["params"] for row in small.rows()]
    large = study_of(tmp_path, search_of(LINE, trials=7))
    assert large.missing() == 3
    run(large, lambda params: float(params["x"] or 0.0))
    after = [row["params"] for row in large.rows()]
    assert after[:4] == before
    assert len({json.dumps(params) for params in after}) == 7


def test_the_median_prunes_what_is_behind_after_the_warm_up_only(tmp_path: Path) -> None:
    search = search_of(LINE, trials=9, pruner=Pruner.median, rung=2, warmup=4)
    study = study_of(tmp_path, search, steps=12)
    for element in range(5):  # Optuna's median wants five complete trials
        asked = ask(study, element)
        assert not any(study.report(asked, step, 0.5 + element / 100) for step in (2, 4, 6, 8, 10, 12))
        study.tell(asked, [0.5])
    behind = ask(study, 5)
    assert not study.report(behind, 2, 0.0)  # 0.0 is far behind, but reward curves cross early
    assert study.report(behind, 4, 0.0)
    study.prune(behind, "")
    ahead = ask(study, 6)
    assert not any(study.report(ahead, step, 0.9) for step in (2, 4, 6, 8, 10, 12))
    (row,) = [row for row in study.rows() if row["state"] == "pruned"]
    assert (row["number"], row["pruned_step"]) == (behind.number, 4)


def test_the_last_step_prunes_nothing(tmp_path: Path) -> None:
    study = study_of(tmp_path, search_of(LINE, trials=9, pruner=Pruner.asha, rung=1, warmup=1), steps=3)
    for element in range(6):
        asked = ask(study, element)
        assert not study.report(asked, 3, -float(element))


def test_reporting_a_step_again_changes_nothing(tmp_path: Path) -> None:
    study = study_of(tmp_path, search_of(LINE, trials=2))
    asked = ask(study, 0)
    study.report(asked, 3, 0.25)
    study.report(asked, 3, 0.75)
    study.report(asked, 2, 0.75)
    assert study.rows()[0]["intermediate"] == {"3": 0.25}


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    study = study_of(tmp_path, search_of(LINE, trials=1))
    with pytest.raises(ValueError, match="trial-000 must have numbers"):
        study.tell(ask(study, 0), [float("nan")])


_WORK = """
import sys
from pathlib import Path
from studies import everybody_lives, search_of, space_of, study_of
study = study_of(Path(sys.argv[1]), search_of(space_of("x=interval(0,1)"), trials=24))
element = int(sys.argv[2])
while (asked := study.ask(element, is_alive=everybody_lives)) is not None:
    study.report(asked, 1, 0.5)
    study.tell(asked, [float(asked.params["x"])])
    element += 100
"""


def test_many_processes_share_a_study_and_tell_exactly_what_was_planned(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [Path(__file__).parent, *sys.path]))}
    workers = [
        subprocess.Popen([sys.executable, "-c", _WORK, str(tmp_path), str(element)], env=environment)
        for element in range(4)
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0, 0]
    rows = study_of(tmp_path, search_of(LINE, trials=24)).rows()
    assert len([row for row in rows if row["counted"]]) == 24
    assert {row["state"] for row in rows} == {"complete"}
    assert len({row["element"] for row in rows}) == len(rows)


def test_optuna_itself_can_read_the_study(tmp_path: Path) -> None:
    study = study_of(tmp_path, search_of(LINE, trials=3))
    values = run(study, lambda params: float(params["x"] or 0.0))
    path = str(study.folder / "journal.log")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    assert optuna.load_study(study_name="made-up", storage=storage).best_value == max(values)


def test_hyperband_prunes_and_every_trial_is_told(tmp_path: Path) -> None:
    search = search_of(LINE, trials=30, sampler=Sampler.random, pruner=Pruner.hyperband, rung=1, warmup=1)
    study = study_of(tmp_path, search, steps=9)
    element = 0
    while (asked := study.ask(element, is_alive=everybody_lives)) is not None:
        element += 1
        height = float(asked.params["x"] or 0.0)
        if any(study.report(asked, step, height) for step in range(1, 10)):
            study.prune(asked, "")
        else:
            study.tell(asked, [height])
    states = Counter(row["state"] for row in study.rows())
    assert states["pruned"] + states["complete"] == 30
    assert states["pruned"] >= 5
    best = max(row["params"]["x"] for row in study.rows())
    assert max(row["values"][0] for row in study.rows() if row["values"]) == best  # the best is never pruned
