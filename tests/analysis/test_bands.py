"""Bands hold for a whole curve, widen for what varies only, and claim nothing where nothing varies."""

from __future__ import annotations

import numpy as np
import pytest

from tokensweep_analysis.bands import arm_band, difference_band, simultaneous_confidence
from tokensweep_analysis.crossed import Scores, arm_design
from tokensweep_analysis.intervals import arm_estimates
from tokensweep_analysis.passk import pass_at_k


def _table(*shape: int) -> Scores:
    return np.random.default_rng(0).random(shape)


def test_a_curve_that_moves_as_one_has_the_interval_of_each_point() -> None:
    # Every point is the same but for its scale: the band is the pointwise interval, up to the draws' noise
    # (the 95 % quantile of 999 draws has a standard error of 0.7 % as a level).
    table = _table(3, 30, 1) * np.linspace(0.1, 1, 20)
    band = arm_band(table)
    assert 0.95 <= band.pointwise < 0.97
    assert band.estimates == tuple(each.at(band.pointwise) for each in arm_estimates(table))


def test_independent_points_share_the_error_by_sidaks_formula() -> None:
    # 0.95^(1/8) = 0.9936 for eight independent points; 4,000 questions leave correlations of 0.016.
    level = simultaneous_confidence(arm_design(_table(1, 4000, 8), metrics=True), num_draws=9999)
    assert level == pytest.approx(0.95 ** (1 / 8), abs=0.0015)


def test_points_without_spread_have_no_band_and_do_not_widen_the_others() -> None:
    alone = _table(3, 30, 2)
    dull = np.stack([np.zeros((3, 30)), np.full((3, 30), 0.1), np.ones((3, 30))], axis=2)
    band = arm_band(np.concatenate([dull, alone], axis=2))
    assert np.isnan(band.low[:3] + band.high[:3]).all()
    assert "no spread" in band.remark
    assert band.low[3:] == pytest.approx(arm_band(alone).low)
    assert band.pointwise == arm_band(alone).pointwise


@pytest.mark.parametrize("table", [np.ones((3, 30, 4)), np.ones((1, 1, 4)) / 2])
def test_a_curve_without_any_spread_has_no_band(table: Scores) -> None:
    band = arm_band(table)
    assert np.isnan([*band.low, *band.high, band.pointwise]).all()
    assert [each.value for each in band.estimates] == [table[0, 0, 0]] * 4
    assert "no spread" in band.remark


def test_a_band_is_wider_than_intervals_and_the_same_every_time() -> None:
    table, other = _table(3, 30, 16), _table(3, 30, 16)[::-1]
    first, again = (
        difference_band(table, other, seeds=range(3), baseline_seeds=range(3, 6)) for _ in range(2)
    )
    assert first == again
    assert first.pointwise > 0.98
    assert all(each.high - each.low > 0 for each in first.estimates)
    assert first.remark == ""


def test_a_band_over_benchmarks_has_the_points_of_their_mean() -> None:
    tables = [_table(3, 30, 4), _table(3, 20, 4)]
    values = [each.value for each in arm_band(tables).estimates]
    assert values == pytest.approx([each.value for each in arm_estimates(tables)])


def test_the_band_of_a_difference_holds_for_equal_methods_at_every_k() -> None:
    # 400 comparisons of pass@k curves from 32 samples, 3 runs, 30 questions; SD of the share 1.1 %. Intervals
    # of single points hold everywhere less often.
    generator = np.random.default_rng(0)
    ks = (1, 2, 4, 8, 16, 32)
    curve = np.array([[pass_at_k(32, c, k) for k in ks] for c in range(33)])
    band, pointwise = [], []
    for number in range(400):
        difficulty = generator.normal(-0.4, 3.2, 30)
        arms = [curve[_counts(generator, difficulty)] for _ in range(2)]
        found = difference_band(*arms, seeds=range(3), baseline_seeds=range(3, 6), seed=number)
        band.append(_holds(found.low, found.high))
        each = [estimate.interval(0.95) for estimate in found.estimates]
        pointwise.append(_holds(*zip(*each, strict=True)))
    assert 0.93 <= np.mean(band) <= 0.99
    assert np.mean(pointwise) < np.mean(band) - 0.03


def _counts(generator: np.random.Generator, difficulty: Scores) -> Scores:
    """Correct samples of 32, [3, Q], with question x arm, seed and seed x question effects."""
    logits = difficulty + generator.normal(0, 0.5, 30) + generator.normal(0, 0.1, (3, 1))
    p = 1 / (1 + np.exp(-logits - generator.normal(0, 0.4, (3, 30))))
    return np.asarray(generator.binomial(32, p))


def _holds(low: object, high: object) -> bool:
    """Whether no difference lies in all intervals; a point without one says nothing."""
    return not (np.asarray(low) > 0).any() and not (np.asarray(high) < 0).any()
