"""Presets of different papers compose: every pair either keeps all laws or is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tokensweep.compose import freeze_run
from tokensweep.composer import parse
from tokensweep.loss.laws import LAWS
from tokensweep.loss.method import Method
from tokensweep.presets import presets
from tokensweep.stacking import check_stack, filled

_ALL = presets()
_FILLED = cache(filled)
# The first preset of each paper in which it is not a variation of another one of the same paper.
_OF_PAPER = {
    preset.paper: name
    for name, preset in reversed(_ALL.items())
    if not any(_ALL[base].paper == preset.paper for base in preset.bases)
}
_REMEDIES = ("decide with", "take ", "leave ", "set ", "drop ")  # each reason ends with what to do
STACKED = sorted(_OF_PAPER.values())


def refusal(pair: tuple[str, str], method_of: Callable[..., Method]) -> str:
    """Why two presets are no method; empty where they are one."""
    stack = f"method=[{','.join(pair)}]"
    try:
        check_stack(parse([stack]), preset=_FILLED)
        method_of(stack)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", STACKED[:-1])
def test_a_pair_keeps_the_laws_or_is_refused_with_the_reason(
    name: str, method_of: Callable[..., Method]
) -> None:
    for other in STACKED[STACKED.index(name) + 1 :]:
        if why := refusal((name, other), method_of):
            assert any(remedy in why for remedy in _REMEDIES), f"{name}, {other}: {why}"
            continue
        method = method_of(f"method=[{name},{other}]")
        for law in LAWS.values():
            law(method)


def test_a_stack_has_the_labels_of_all_its_presets() -> None:
    method = freeze_run(["method=[htpo,opefo]", "method.updates_per_batch=1"])["method"]
    assert method["name"] == "htpo+opefo"
    assert method["paper"].endswith(", arXiv:2605.11491")
    assert method["evidence"] == "reconstruction"  # that of opefo, the weakest
    assert method["applies_to"] == ["on_policy"]


def test_a_label_that_is_given_stays() -> None:
    method = freeze_run(["method=[grpo,mixed_cuts]", "method.name=mine"])["method"]
    assert (method["name"], method["evidence"]) == ("mine", "note")


def test_an_unknown_preset_in_a_stack_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no method 'verbal': did you mean explicit_uncertainty_verbal"):
        freeze_run(["method=[verbal,rlcr]"])


@pytest.mark.parametrize("given", ["[]", "[dapo,dapo]"])
def test_a_stack_names_presets_and_each_once(given: str) -> None:
    with pytest.raises(ValueError, match="at least one preset, and each once, got"):
        freeze_run([f"method={given}"])
