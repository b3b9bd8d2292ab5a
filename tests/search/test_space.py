"""Spaces: what people write is what Optuna gets, and nonsense is refused with the key."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from tokensweep.composer import parse
from tokensweep.search.space import Parameter, Space, is_searched, parameter_of, read_space


def read(text: str) -> Parameter:
    return parameter_of(parse([text])[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(0.05,1.0)", optuna.distributions.FloatDistribution(0.05, 1.0)),
        ("a=interval(1,8)", optuna.distributions.FloatDistribution(1.0, 8.0)),  # Hydra: an interval is real
        ("a=int(interval(1,8))", optuna.distributions.IntDistribution(1, 8)),
        ("a=tag(log,interval(1e-5,1e-3))", optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True)),
        ("a=tag(log,int(interval(1,64)))", optuna.distributions.IntDistribution(1, 64, log=True)),
        ("a=range(1,9,2)", optuna.distributions.IntDistribution(1, 7, step=2)),  # 1 3 5 7: the end is out
        ("a=x,y", optuna.distributions.CategoricalDistribution(["x", "y"])),
        ("a=1,2.5,null", optuna.distributions.CategoricalDistribution([1, 2.5, None])),
    ],
)
def test_hydra_s_grammar_is_optuna_s_distribution(text: str, expected: Any) -> None:
    assert read(text).distribution() == expected


def test_a_stack_of_presets_is_a_choice_and_comes_back_as_an_override() -> None:
    space = Space((read("method=dapo,[dapo,holderpo]"),))
    assert space.parameters[0].choices == ("dapo", "[dapo,holderpo]")
    assert space.overrides({"method": "[dapo,holderpo]"}) == ["method=[dapo,holderpo]"]
    assert not is_searched(parse(space.overrides({"method": "[dapo,holderpo]"}))[0])


def test_numbers_go_through_an_override_unchanged() -> None:
    space = Space((read("optim.lr=tag(log,interval(1e-5,1e-3))"),))
    (text,) = space.overrides({"optim.lr": 1.2345678901234567e-05})
    assert parse([text])[0].value() == 1.2345678901234567e-05


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=interval(1,1)", "a must go from a low to a higher value"),
        ("a=tag(log,interval(0,1))", "a: a logarithmic scale must start above 0"),
        ("a=tag(slow,interval(0,1))", "a: no tag slow"),
        ("a=range(0,1,0.1)", "whole numbers upwards"),
        ("a=range(1,2)", "at least two values"),
        ("a=x,x", "a: a choice stands twice"),
        ("a=interval(0,inf)", "a must have two ends, got 0.0 to inf"),
        ("a=tag(log,range(1,9,2))", "a: a logarithmic scale has no steps, got 2"),
        ("a=glob(*)", "a must be something to choose from"),
    ],
)
def test_nonsense_is_refused_with_its_key(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(text)


def test_a_conditional_key_exists_where_its_condition_holds() -> None:
    space = read_space(
        {
            "method": ["dapo", "holderpo"],
            "method.ratio.p": {"of": "interval(-2,2)", "when": {"method": "holderpo"}},
        },
        where="file: search.space",
    )
    assert space.is_conditional
    with_p = space.suggest(optuna.trial.FixedTrial({"method": "holderpo", "method.ratio.p": 0.5}))  # type: ignore[arg-type]
    assert with_p == {"method": "holderpo", "method.ratio.p": 0.5}
    without = space.suggest(optuna.trial.FixedTrial({"method": "dapo"}))  # type: ignore[arg-type]
    assert without == {"method": "dapo"}
    assert space.corners() == [
        {"method": "dapo"},
        {"method": "holderpo", "method.ratio.p": -2.0},
        {"method": "holderpo", "method.ratio.p": 2.0},
    ]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "must be a mapping of KEY"),
        ({"a": 1}, "a must be text or a list"),
        ({"a": {"of": [1, 2], "unless": 3}}, "unknown keys unless"),
        (
            {"a": {"of": [1, 2], "when": {"b": 1}}},
            "'when' must name a key with choices that stands before it",
        ),
        ({"b": [1, 2], "a": {"of": [1, 2], "when": {"b": 3}}}, "b is never 3"),
        ({"a": "interval(0,"}, "a: "),
    ],
)
def test_a_file_s_space_is_refused_with_file_and_key(node: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        read_space(node, where="zoo.yaml: search.space")
    assert str(refused.value).startswith("zoo.yaml: search.space")


def test_a_space_goes_through_json_unchanged() -> None:
    space = read_space(
        {
            "m": ["a", "b"],
            "p": {"of": "range(1,9,2)", "when": {"m": ["a"]}},
            "lr": "tag(log,interval(1e-5,1))",
        },
        where="x",
    )
    assert Space(tuple(Parameter.from_json(one.as_json()) for one in space.parameters)) == space


def test_corners_of_many_choices_vary_one_at_a_time() -> None:
    space = Space(tuple(Parameter(key=f"k{i}", choices=(0, 1, 2, 3)) for i in range(4)))  # 4^4 = 256
    corners = space.corners()
    assert len(corners) == 1 + 4 * 3  # the first of each, and three others per key
    assert space.size == 256
