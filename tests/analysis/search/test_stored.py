"""What a search wrote is read whole, and damage is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.analysis.search.made import ACCURACY, FRACTION, a_pruned, a_search, a_study, a_trial, write_trials

from tokensweep.search.space import Parameter, Space
from tokensweep.search.spec import Pruner, Sampler, Search
from tokensweep.search.study import Study as OptunaStudy
from tokensweep_analysis.search.stored import Goal, State, find_study, read_study


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    study = a_study(tmp_path, [a_trial(1, 0.5, runs={"0": "a", "7": "b"}), a_pruned(0, step=3)], planned=9)
    assert (study.name, study.sampler, study.pruner, study.planned) == ("demo", "tpe", "asha", 9)
    assert study.goals == (Goal("accuracy", "maximize"),)
    assert [each.number for each in study.trials] == [0, 1]
    pruned, complete = study.trials
    assert (pruned.state, pruned.pruned_step, pruned.values) == (State.pruned, 3, None)
    assert (complete.arm, complete.values, complete.runs) == ("trial-001", (0.5,), {0: "a", 7: "b"})
    assert study.complete == (complete,)


def test_what_a_search_writes_can_be_read(tmp_path: Path) -> None:
    space = Space(
        (
            Parameter(key="kind", choices=("entropy", "all", None)),
            Parameter(key="fraction", low=0.0, high=1.0, when={"kind": ("entropy",)}),
            Parameter(key="lr", low=1e-6, high=1e-3, log=True),
            Parameter(key="prompts", low=1, high=16, integer=True, step=4),
        )
    )
    search = Search(name="demo", space=space, trials=8, sampler=Sampler.random, pruner=Pruner.asha)
    written = OptunaStudy(search, tmp_path / "search", steps=8)
    for number in range(8):
        asked = written.ask(0, is_alive=lambda _: True)
        assert asked is not None
        written.name_runs(asked, {0: f"r{number}"})
        written.report(asked, 2, 0.25)
        if number < 5:
            written.tell(asked, [number / 8])
        elif number == 5:
            written.prune(asked, "behind")
        elif number == 6:
            written.fail(asked, "lost its node", again=True)
    written.export()
    study = find_study(tmp_path)
    assert study is not None
    assert study.space == space
    assert (study.name, study.sampler, study.pruner, study.planned) == ("demo", "random", "asha", 8)
    assert [each.values for each in study.complete] == [(number / 8,) for number in range(5)]
    states = [(each.state, each.counted) for each in study.trials[5:]]
    # The one that failed is queued again under another number, which the last ask was given.
    assert states[:2] == [(State.pruned, True), (State.failed, False)]
    assert states[2][0] is State.running
    assert study.trials[5].pruned_step == 2
    assert study.trials[6].reason == "lost its node"
    assert study.trials[0].runs == {0: "r0"}


def test_a_sweep_without_trials_is_no_search(tmp_path: Path) -> None:
    assert find_study(tmp_path) is None


def test_a_trial_that_does_not_count_is_not_among_the_complete_ones(tmp_path: Path) -> None:
    study = a_study(tmp_path, [a_trial(0, 0.5), a_trial(1, 0.5, counted=False)])
    assert [each.number for each in study.complete] == [0]


def _damaged_row(**changes: Any) -> dict[str, Any]:
    return a_search([a_trial(0, 0.5), a_trial(1, **{"value": 0.5, **changes})])


_DAMAGE: list[tuple[str, dict[str, Any]]] = [
    (r"name must be a text, got 3", a_search([], name=3)),
    (r"planned must be a whole number from 0 on, got -1", a_search([], planned=-1)),
    (r"planned must be a whole number from 0 on, got True", a_search([], planned=True)),
    (r"objectives must hold at least one", a_search([], objectives=[])),
    (
        r"objectives\[0\].direction must be maximize or",
        a_search([], objectives=[{**ACCURACY, "direction": "up"}]),
    ),
    (r"objectives\[0\] must be an object, got 'accuracy'", a_search([], objectives=["accuracy"])),
    (r"trials must be a list, got None", {**a_search([]), "trials": None}),
    (r"trials must list every number once, got \[4\]", a_search([a_trial(4, 0.5), a_trial(4, 0.5)])),
    (r"space\[0\] must be a parameter", a_search([], space=[{"key": "a"}])),
    (r"space\[0\] must be a parameter", a_search([], space=[{"key": "a", "low": "0", "high": "1"}])),
    (r"space\[0\] must be a parameter", a_search([], space=[{**FRACTION, "odd": 1}])),
    (r"space must be a space .*stands twice", a_search([], space=[FRACTION, FRACTION])),
    (r"trials\[1\].state must be one of complete, .*, got 'done'", _damaged_row(state="done")),
    (r"trials\[1\].values must hold 1 of a complete trial, got None", _damaged_row(value=None)),
    (r"trials\[1\].values must hold 1 of a complete trial, got \[0.5, 2\]", _damaged_row(value=[0.5, 2])),
    (r"trials\[1\].values must be a list of finite numbers or null, got \['x'\]", _damaged_row(values=["x"])),
    (r"trials\[1\].params.method.fraction must be a value of", _damaged_row(params={"method.fraction": 2})),
    (r"trials\[1\].params.method.fraction must be a value of", _damaged_row(params={"method.fraction": "a"})),
    (r"trials\[1\].params.other must be a value of the space", _damaged_row(params={"other": 1})),
    (r"trials\[1\].params must be an object", _damaged_row(params=[1])),
    (r"trials\[1\].runs must give a run id per seed", _damaged_row(runs={"a": "b"})),
    (r"trials\[1\].pruned_step must be a whole number from 0 on or null", _damaged_row(pruned_step=1.5)),
    (r"trials\[1\].counted must be true or false, got None", _damaged_row(counted=None)),
    (r"trials\[1\].ended must be a finite number or null", _damaged_row(ended="now")),
]


@pytest.mark.parametrize(("message", "content"), _DAMAGE)
def test_damage_is_told_with_file_and_key(tmp_path: Path, message: str, content: dict[str, Any]) -> None:
    path = write_trials(tmp_path, content)
    with pytest.raises(ValueError, match=f"trials.json: {message}") as error:
        read_study(path)
    assert "delete the file, tokensweep report writes it again" in str(error.value)


@pytest.mark.parametrize("key", ["name", "sampler", "pruner", "objectives", "planned", "space", "trials"])
def test_a_key_that_is_missing_is_named(tmp_path: Path, key: str) -> None:
    content = a_search([])
    del content[key]
    with pytest.raises(ValueError, match=f"trials.json: {key} must be there"):
        read_study(write_trials(tmp_path, content))


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    path = write_trials(tmp_path, a_search([]))
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"trials.json is damaged"):
        read_study(path)


def test_a_value_that_is_not_finite_is_damage(tmp_path: Path) -> None:
    path = write_trials(tmp_path, a_search([a_trial(0, 0.5)]))
    path.write_text(path.read_text().replace("0.5", "NaN"))
    with pytest.raises(ValueError, match=r"trials\[0\].values must be a list of finite numbers"):
        read_study(path)


def test_a_trial_that_waits_may_want_what_the_space_does_not_have(tmp_path: Path) -> None:
    row = a_trial(0, state="waiting", params={"method.fraction": 7})
    assert a_study(tmp_path, [row]).trials[0].params == {"method.fraction": 7}


def test_choices_are_told_apart_by_kind_and_an_end_may_be_rounded(tmp_path: Path) -> None:
    space = [{"key": "a", "choices": [True, None, "1", 2]}, {"key": "b", "low": 0.1, "high": 0.3}]
    row = a_trial(0, 0.5, params={"a": None, "b": 0.1 + 0.2})
    assert a_study(tmp_path, [row], space=space).trials[0].params == {"a": None, "b": 0.1 + 0.2}
    with pytest.raises(ValueError, match=r"params.a must be a value of the space, got 1"):
        a_study(tmp_path, [a_trial(0, 0.5, params={"a": 1})], space=space)
