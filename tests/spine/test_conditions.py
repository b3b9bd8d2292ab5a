"""Conditions of methods: whether a run has what its method applies to, and what its plan says if not."""

from __future__ import annotations

import pytest

from tokensweep.compose import Freezer, register_components
from tokensweep.conditions import unmet


@pytest.fixture(scope="module")
def freezer() -> Freezer:
    register_components()
    return Freezer()


@pytest.mark.parametrize(
    ("overrides", "lacking"),
    [
        ("method=reasonmaxxer", ["lora"]),
        ("method=reasonmaxxer trainable=lora", []),
        ("method=explicit_uncertainty_verbal", ["stated_confidence"]),
        ("method=explicit_uncertainty_verbal prompt=verbal_confidence", []),
        ("method=explicit_uncertainty_token prompt=uncertain_marker", []),
        ("method=rlcr data=ops_stated", []),
        ("method=cancellation method.updates_per_batch=1", ["off_policy"]),
        ("method=cancellation method.updates_per_batch=2", []),
        ("method=[dapo,opefo] method.updates_per_batch=1", []),
        ("method=mixed_cuts", []),
    ],
)
def test_a_plan_says_what_a_method_applies_to_and_the_run_is_not(
    freezer: Freezer, overrides: str, lacking: list[str]
) -> None:
    told = list(unmet(freezer.freeze(["scale=tiny", *overrides.split()])))
    assert [text.split(" applies to ")[1].split(",")[0] for text in told] == lacking
