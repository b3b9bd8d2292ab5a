"""Which parameter decides is told where enough trials say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.analysis.search.made import ACCURACY, TOKENS, a_pruned, a_study, a_trial

from tokensweep_analysis.search.importance import importance_of

_SPACE = [
    {"key": "kind", "choices": ["entropy", "all"]},
    {"key": "fraction", "low": 0.0625, "high": 1.0, "when": {"kind": ["entropy"]}},
    {"key": "lr", "low": 1e-6, "high": 1e-3, "log": True},
    {"key": "prompts", "low": 1, "high": 64, "integer": True, "step": 4},
]


def _rows(number: int, *, objectives: int = 1) -> list[dict[str, Any]]:
    """Trials of which the learning rate alone decides."""
    rng = np.random.default_rng(2)
    rows = []
    for place in range(number):
        kind = ["entropy", "all"][place % 2]
        power = rng.uniform(-6, -3)
        params = {"kind": kind, "lr": 10**power, "prompts": 1 + 4 * int(rng.integers(0, 16))}
        if kind == "entropy":
            params["fraction"] = rng.uniform(0.0625, 1)
        accuracy = 1 - abs(power + 4.5) / 3
        rows.append(a_trial(place, (accuracy, 100.0)[:objectives], params=params))
    return rows


def test_the_parameter_that_decides_is_the_most_important(tmp_path: Path) -> None:
    found = importance_of(a_study(tmp_path, _rows(60), space=_SPACE))
    assert next(iter(found.shares)) == "lr"
    assert found.shares["lr"] > 0.5
    assert sum(found.shares.values()) == pytest.approx(1)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    assert found.existed == {"kind": 60, "fraction": 30, "lr": 60, "prompts": 60}
    assert found.num_best == 6


def test_at_least_five_trials_are_the_best(tmp_path: Path) -> None:
    assert importance_of(a_study(tmp_path, _rows(12), space=_SPACE)).num_best == 5


def test_pruned_trials_are_not_asked(tmp_path: Path) -> None:
    rows = _rows(20)
    pruned = [a_pruned(number, params={"kind": "all", "lr": 1e-6, "prompts": 1}) for number in range(20, 40)]
    with_pruned = importance_of(a_study(tmp_path, [*rows, *pruned], space=_SPACE))
    assert with_pruned == importance_of(a_study(tmp_path, rows, space=_SPACE))


def test_two_objectives_have_one_importance(tmp_path: Path) -> None:
    study = a_study(tmp_path, _rows(40, objectives=2), space=_SPACE, objectives=[ACCURACY, TOKENS])
    assert next(iter(importance_of(study).shares)) == "lr"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "10 complete trials, got 0"),
        (_rows(9), "10 complete trials, got 9"),
        ([{**row, "values": [0.5]} for row in _rows(12)], "all complete trials have the same value"),
        # Five are wanted, but eleven are tied.
        (
            [{**row, "values": [0.5 if row["number"] else 0.25]} for row in _rows(12)],
            "tied, so that 11 of 12",
        ),
    ],
)
def test_it_is_said_why_there_is_none(tmp_path: Path, rows: list[dict[str, Any]], reason: str) -> None:
    found = importance_of(a_study(tmp_path, rows, space=_SPACE))
    assert reason in found.reason
    assert not found.shares


def test_a_single_parameter_has_no_share(tmp_path: Path) -> None:
    found = importance_of(a_study(tmp_path, [a_trial(number, number / 20) for number in range(20)]))
    assert (found.reason, found.shares) == ("there is one parameter, so all of it is that one's", {})


def test_a_report_is_imported_without_optuna() -> None:
    code = (
        "import sys, tokensweep_analysis.report, tokensweep_analysis.page; assert 'optuna' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
