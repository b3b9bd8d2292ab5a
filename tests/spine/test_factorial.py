"""Factorial designs of a sweep file: which arms there are, and which files are refused."""

from __future__ import annotations

from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import pytest

from tokensweep.compose import register_components
from tokensweep.factorial import read_design
from tokensweep.plan import make_plan
from tokensweep.sweepfile import load_sweep


def factors(count: int) -> dict[str, Any]:
    return {name: {f"method.{name}": 1} for name in "abcdefgh"[:count]}


def test_a_full_design_has_every_combination() -> None:
    design = read_design({"factors": factors(3)}, where="here")
    assert list(design.arms) == ["none", "a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]
    assert design.arms["none"] == {}
    assert design.arms["a+c"] == {"method.a": 1, "method.c": 1}
    assert design.factors["b"] == ("b", "a+b", "b+c", "a+b+c")


def test_in_a_half_every_effect_of_up_to_two_factors_has_its_own_columns() -> None:
    # 16 arms. The codes of two effects of one or two factors are orthogonal: their products sum to 0.
    design = read_design({"factors": factors(5), "fraction": "half"}, where="here")
    assert len(design.arms) == 16
    code = {name: {arm: 1 if arm in on else -1 for arm in design.arms} for name, on in design.factors.items()}
    effects = [*((name,) for name in code), *combinations(code, 2)]
    for one, other in combinations(effects, 2):
        products = [prod(code[name][arm] for name in (*one, *other)) for arm in design.arms]
        assert sum(products) == 0, (one, other)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"factors": factors(1)}, "here.factors must hold at least two factors, got 1"),
        ({"factors": factors(4), "fraction": "half"}, "half must have at least 5 factors, got 4"),
        ({"factors": factors(2), "fraction": "third"}, "fraction must be full or half, got 'third'"),
        ({"factors": factors(2), "arms": {}}, "here has unknown keys arms: known are factors, fraction"),
        ({"factors": {"a": {}, "b": {"x": 1}}}, "here.factors.a must map keys to values"),
        (
            {"factors": {"a+b": {"x": 1}, "c": {"y": 1}}},
            "a factor's name must be other than 'none' and without",
        ),
        ({"factors": {"a": {"x": 1}, "b": {"x": 2}}}, "b and a both set x, so they have no arm together"),
    ],
)
def test_a_design_that_can_not_be_is_refused(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_design(node, where="here")


def test_a_sweep_file_may_have_a_design_in_place_of_arms(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = "factorial:\n  factors:\n    a: {method: rloo}\n    b: {optim.lr: 1e-5}\n"
    text += "seeds: [0, 1]\nscales: {tiny: {}}\n"
    path.write_text(text)
    sweep = load_sweep(str(path), scale="tiny")
    assert sweep.baseline == "none"
    assert sweep.factors == {"a": ("a", "a+b"), "b": ("b", "a+b")}
    assert len(sweep.jobs) == 8
    path.write_text(f"arms: {{x: {{method: dapo}}}}\n{text}")
    with pytest.raises(ValueError, match="must have arms or factorial, got both"):
        load_sweep(str(path), scale="tiny")


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("{settings: {ops: {data: ops, arms: [none]}}}", "every arm of its factorial.*settings.ops arms"),
        ("{arms: [none, a]}", "every arm of its factorial, .* got its own arms"),
    ],
)
def test_a_part_of_a_design_is_refused(tmp_path: Path, scale: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "factorial: {factors: {a: {optim.lr: 1e-3}, b: {optim.clip_norm: 2}}}\n"
        f"seeds: [0]\nscales: {{tiny: {scale}}}\n"
    )
    with pytest.raises(ValueError, match=message):
        load_sweep(str(path), scale="tiny")


def test_a_factor_that_sets_what_the_base_has_is_refused_by_the_plan(tmp_path: Path) -> None:
    register_components()
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: {method: naive_grpo}\n"
        "factorial: {factors: {clip: {method/surrogate: ppo_clip}, mean: {method/aggregate: token_mean}}}\n"
        "seeds: [0]\nscales: {tiny: {}}\n"
    )
    sweep = load_sweep(str(path), scale="tiny", overrides=[f"store={tmp_path / 'store'}"])
    with pytest.raises(ValueError, match="none and clip must differ, got one run for both: what clip sets"):
        make_plan(sweep)
