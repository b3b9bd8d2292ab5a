"""What people write becomes the search they mean, from a command line and from a file alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tokensweep.search.launch import plan_search
from tokensweep.search.read import load_search, search_of_arguments, search_of_command
from tokensweep.search.spec import Objective, Pruner, Sampler, Search
from tokensweep.sweepfile import load_sweep

_SPACE = "method.token_weights.entropy.fraction=interval(0.05,1.0)"
_COMMAND = ("hydra/sweeper=optuna_pull", "method=forking_tokens", _SPACE, "seed=0,1")


def of_command(*overrides: str, **settings: Any) -> Search:
    return search_of_command(overrides, settings=settings, when={}, name=None, scale="tiny").search


def file_of(tmp_path: Path, **changes: Any) -> str:
    content: dict[str, Any] = {
        "base": {"data": "ops"},
        "search": {"trials": 4, "space": {"optim.lr": "tag(log,interval(1e-5,1e-3))"}},
        "seeds": [0],
        "scales": {"tiny": {}},
    }
    path = tmp_path / "looking.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return str(path)


def test_what_has_several_values_is_searched_and_seeds_are_replicates() -> None:
    given = search_of_arguments([*_COMMAND, "store=/tmp/x", "jobs=2", "hydra.sweeper.trials=7"])
    assert given is not None
    assert [one.key for one in given.search.space.parameters] == ["method.token_weights.entropy.fraction"]
    assert (given.search.seeds, given.search.trials) == ((0, 1), 7)
    assert given.search.base == ("method=forking_tokens",)
    assert given.launch == ("store=/tmp/x", "jobs=2")


def test_a_command_without_the_sweeper_is_no_search() -> None:
    assert search_of_arguments(_COMMAND[1:]) is None


def test_the_name_is_of_what_is_searched_and_not_of_how_much() -> None:
    name = of_command(_SPACE).name
    assert of_command(_SPACE, trials=99).name == name
    assert of_command(_SPACE, sampler="random").name != name
    assert of_command(_SPACE, "steps=7").name != name
    assert of_command(_SPACE.replace("1.0", "0.9")).name != name


def test_a_tracking_uri_is_in_no_search() -> None:
    given = search_of_command(
        [_SPACE, "tracking.uri=http://me:secret@host"], settings={}, when={}, name="s", scale=""
    )
    assert "secret" not in str(given.search.as_json())
    assert given.launch == ("tracking.uri=http://me:secret@host",)


def test_settings_have_their_types() -> None:
    found = of_command(_SPACE, sampler="gp", pruner="hyperband", rung=2, warmup=4, seed=3)
    assert (found.sampler, found.pruner, found.rung, found.warmup) == (Sampler.gp, Pruner.hyperband, 2, 4)
    assert found.sampler_seed == 3
    both = of_command(_SPACE, objective=["accuracy", "device_hours"])
    assert both.objectives == (Objective.accuracy, Objective.device_hours)
    assert both.directions == ["maximize", "minimize"]
    assert Search.from_json(both.as_json()) == both


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"sampler": "best"},
            r"hydra\.sweeper\.sampler must be one of random, tpe, gp, cmaes, nsgaii, got 'best'",
        ),
        ({"trials": 0}, "trials must be at least 1"),
        ({"trials": 2.5}, r"hydra\.sweeper\.trials must be a whole number"),
        ({"n_trials": 2}, r"hydra\.sweeper has unknown keys n_trials"),
        ({"objective": []}, "objectives must be distinct and at least one"),
        (
            {"objective": ["accuracy", "tokens"], "pruner": "asha"},
            "a trial that is behind in one may be ahead",
        ),
        ({"objective": ["accuracy", "tokens"], "stop_evaluation": 0.1}, "may still be the cheapest"),
        ({"objective": ["accuracy", "tokens"], "sampler": "cmaes"}, "knows one objective only"),
        ({"objective": "tokens", "pruner": "median"}, "compares accuracy during training"),
        ({"stop_evaluation": 0.7}, r"stop_evaluation must be in \[0, 0.5\)"),
        ({"rung": 0}, "rung must be at least 1 step"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        of_command(_SPACE, **settings)


def test_nothing_to_search_is_refused() -> None:
    with pytest.raises(ValueError, match="needs something to search"):
        of_command("method=dapo", "seed=0,1")


def test_a_file_and_a_command_mean_the_same(tmp_path: Path) -> None:
    given = load_search(file_of(tmp_path), ["steps=9", "store=/tmp/x", "trials=6"])
    assert given is not None
    assert given.search.base == ("data=ops", "scale=tiny", "steps=9")
    assert (given.search.name, given.search.trials, given.launch) == ("looking-tiny", 6, ("store=/tmp/x",))
    command = of_command(
        "optim.lr=tag(log,interval(1e-5,1e-3))", "data=ops", "scale=tiny", "steps=9", trials=6
    )
    assert replace(command, name="looking-tiny", base=given.search.base) == given.search


def test_a_scale_has_its_own_settings(tmp_path: Path) -> None:
    scales = {"tiny": {"search": {"trials": 2}, "seeds": [3, 4], "base": {"steps": 5}}, "small": {}}
    given = load_search(file_of(tmp_path, scales=scales), [])
    assert given is not None
    assert (given.search.trials, given.search.seeds) == (2, (3, 4))
    assert "steps=5" in given.search.base


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"arms": {"a": {}}}, [], "has 'search', so it has unknown keys arms"),
        ({"search": {"trials": 4}}, [], "search.space must be a mapping of KEY"),
        ({"search": {"space": {"optim.lr": [1, 2]}, "budget": 3}}, [], "search has unknown keys budget"),
        ({"seeds": []}, [], "seeds must be a list of whole numbers"),
        ({}, ["scale=huge"], "has no scale 'huge'"),
        ({}, ["arms=all"], "is a search, whose arms are its trials"),
        ({}, ["trials=many"], "trials= must be a whole number"),
        ({}, ["seeds=1,1"], "has 1 twice"),
        ({}, ["optim.lr=1e-4"], "optim.lr is searched, so optim.lr=1e-4 would mean nothing"),
        ({}, ["optim.eps=1e-9,1e-8"], "a file's space is searched, got optim.eps=1e-9,1e-8: give one value"),
        (
            {"search": {"space": {"method": ["grpo", {"a": 1}]}}},
            [],
            r"method: a choice must be .*, got \{'a': 1\}",
        ),
        ({}, ["optim.eps=log(1)"], "Unknown function 'log'"),
        ({"search": {"space": {"store": ["/tmp/a", "/tmp/b"]}}}, [], "store cannot be searched"),
    ],
)
def test_a_file_that_cannot_be_searched_is_refused(
    changes: dict[str, Any], overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load_search(file_of(tmp_path, **changes), overrides)


def test_a_file_of_arms_is_no_search() -> None:
    assert load_search("forking_tokens", []) is None
    assert load_sweep("forking_tokens", scale="tiny").jobs


def test_the_shipped_search_can_be_planned(tmp_path: Path) -> None:
    given = load_search("which_method", [f"store={tmp_path}"])
    assert given is not None
    plan = plan_search(given.search, given.launch)
    assert plan.search.space.is_conditional
    assert not list(tmp_path.iterdir())  # a plan writes nothing


def test_an_end_of_the_space_that_cannot_run_is_refused(tmp_path: Path) -> None:
    space = "method.token_weights.entropy.fraction=interval(0.05,1.5)"
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\], got 1\.5") as refused:
        plan_search(of_command("method=forking_tokens", space), [f"store={tmp_path}"])
    assert "in the run: method=forking_tokens" in str(refused.value)


def test_a_plan_and_a_run_give_a_search_without_a_name_the_same_name() -> None:
    given = search_of_arguments(["hydra/sweeper=optuna_pull", "method=forking_tokens", _SPACE])
    assert given is not None
    defaults = {  # all of them, as Hydra hands them to the sweeper
        "trials": 20, "sampler": "tpe", "seed": 0, "pruner": "none", "rung": None, "warmup": None,
        "objective": "accuracy", "stop_evaluation": 0.0,
    }  # fmt: skip
    assert given.search.name == of_command("method=forking_tokens", _SPACE, **defaults).name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lr=log(interval(1,2))"], "Unknown function 'log'"),
        ([_SPACE, "code=perhaps"], "code=perhaps"),
        ([_SPACE, "~optim.lr"], "optim.lr"),
        ([_SPACE, "seed=interval(0,5)"], "seed=0,1,2 are replicates, got seed=interval"),
        ([_SPACE, "hydra.sweeper.seed=x"], r"hydra\.sweeper\.seed must be a whole number"),
        ([_SPACE, "hydra.sweeper.when=3"], r"hydra\.sweeper\.when must be a mapping of KEY to .*, got 3"),
        ([_SPACE, "hydra.sweeper.when={optim.lr: dapo}"], r"hydra\.sweeper\.when must be a mapping of KEY"),
        (["store=/tmp/a,/tmp/b"], "store cannot be searched, as it is the command's"),
        ([_SPACE, "jobs=1,2"], "jobs cannot be searched"),
        (
            ["optim.lr=1e-4,1e-3", "optim.lr=1e-4"],
            "optim.lr is searched, so optim.lr=1e-4 would mean nothing",
        ),
    ],
)
def test_a_command_that_means_no_search_is_refused_in_words(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_of_arguments(["hydra/sweeper=optuna_pull", "method=forking_tokens", *overrides])


def test_a_value_before_the_choices_of_a_key_is_what_it_is_without_a_search() -> None:
    assert "optim.lr=1e-4" in of_command("optim.lr=1e-4", "optim.lr=1e-4,1e-3").base


def test_objectives_are_named_as_people_write_them() -> None:
    with pytest.raises(ValueError, match=r"got \['accuracy', 'accuracy'\]"):
        of_command(_SPACE, objective=["accuracy", "accuracy"])
