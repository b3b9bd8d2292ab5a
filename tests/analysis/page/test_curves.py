"""Training curves are means over the runs that reach a step, and stay short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokensweep.ledger import Attempt
from tokensweep_analysis.page.curves import curve_of, read_curves


def test_a_curve_is_the_mean_and_the_extremes_over_seeds() -> None:
    curve = curve_of({0: {1: 1.0, 2: 2.0}, 1: {1: 3.0, 2: 6.0}}, setting="ops", arm="all", metric="reward")
    assert (curve.steps, curve.mean, curve.low, curve.high) == ((1, 2), (2, 4), (1, 2), (3, 6))
    assert curve.seeds == (0, 1)


def test_a_run_that_ended_early_leaves_the_mean_where_it_ended() -> None:
    curve = curve_of({0: {1: 1.0, 2: 2.0}, 1: {1: 3.0}}, setting="ops", arm="all", metric="reward")
    assert (curve.mean, curve.num_runs) == ((2, 2), (2, 1))


def test_many_steps_become_means_over_windows_for_each_run_by_itself() -> None:
    # 5 steps in at most 3 points: windows of 2 steps, the last one of 1.
    rising = {step: float(step) for step in range(1, 6)}
    flat = dict.fromkeys(rising, 0.0)
    curve = curve_of({0: rising, 1: flat}, setting="ops", arm="all", metric="reward", points=3)
    assert curve.window == 2
    assert curve.steps == (1.5, 3.5, 5.0)
    assert (curve.mean, curve.low, curve.high) == ((0.75, 1.75, 2.5), (0, 0, 0), (1.5, 3.5, 5))


def test_a_curve_of_no_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="a curve needs a run with reward, got none"):
        curve_of({}, setting="ops", arm="all", metric="reward")


def test_curves_are_read_for_the_asked_arms_and_the_metrics_that_runs_have(store: Path) -> None:
    # Each run of the store logs reward 0.1 to 0.4 and a kept fraction of 0.2; t2 failed before it began.
    curves = read_curves(store, "demo", arms={"top"})
    assert [(curve.arm, curve.metric, curve.seeds) for curve in curves] == [
        ("top", "reward", (0, 1)),
        ("top", "loss/kept_fraction", (0, 1)),
    ]
    assert curves[0].mean == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert {curve.arm for curve in read_curves(store, "demo")} == {"all", "top"}


def test_steps_without_a_finite_value_are_left_out(store: Path) -> None:
    with Attempt.open(store / "runs" / "t3") as attempt:
        attempt.metrics(1, {"reward": 0.5})
        attempt.metrics(2, {"reward": float("nan")})
    reward = read_curves(store, "demo", arms={"top"})[0]
    assert reward.num_runs == (3, 2, 2, 2)
    assert reward.mean[0] == pytest.approx(0.7 / 3)


def test_a_damaged_run_does_not_hide_the_others(store: Path) -> None:
    for path in (store / "runs" / "t0").rglob("metrics.jsonl"):
        path.write_text("no json\n" + path.read_text())
    assert read_curves(store, "demo", arms={"top"})[0].seeds == (1,)
