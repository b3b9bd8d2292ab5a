"""Detectable differences agree with scipy's power, with the published table and with simulated designs."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from scipy import stats

from tokensweep_analysis.crossed import Scores
from tokensweep_analysis.intervals import arm_estimate, difference_estimate
from tokensweep_analysis.power import (
    CENTRAL,
    OPTIMISTIC,
    PESSIMISTIC,
    Components,
    advise,
    components_of,
    design_detectable,
    detectable_difference,
)

# Points at alpha 0.05 and power 80 % in the central scenario, printed to 0.1; n = 16, 32, 64.
_TWO_CHECKPOINTS = {30: (9.1, 8.0, 7.4), 60: (6.3, 5.6, 5.1), 120: (4.4, 3.9, 3.6)}  # E2, one seed
_METHODS = {  # E4
    (30, 3): (7.4, 6.9, 6.6),
    (30, 5): (6.5, 6.2, 6.1),
    (60, 3): (5.5, 5.2, 5.1),
    (60, 5): (4.8, 4.6, 4.5),
    (120, 3): (4.4, 4.2, 4.1),
    (120, 5): (3.7, 3.5, 3.5),
}
_SAMPLES = (16, 32, 64)


def _points(components: Components, questions: int, seeds: int, samples: int, **more: float) -> float:
    return 100 * design_detectable(
        components, questions=questions, seeds=seeds, samples=samples, paired_seeds=False, **more
    )


@pytest.mark.parametrize("df", [1.0, 2.4, 10.0, 119.0])
def test_a_detectable_difference_is_found_in_80_of_100_by_scipys_noncentral_t(df: float) -> None:
    for alpha, power in ((0.05, 0.8), (0.01, 0.9)):
        difference = float(detectable_difference(2.0, df, alpha=alpha, power=power))
        threshold = stats.t.ppf(1 - alpha / 2, df)
        assert stats.nct.sf(threshold, df, difference / 2.0) == pytest.approx(power, abs=1e-5)


def test_many_designs_at_once_and_those_without_an_interval() -> None:
    both = detectable_difference([0.01, np.nan], [10.0, np.nan])
    assert both[0] == detectable_difference(0.01, 10.0)
    assert np.isnan(both[1])
    estimate = arm_estimate(np.array([[0.9, 0.5, 0.1], [0.7, 0.1, 0.1]]))
    assert estimate.detectable() == detectable_difference(estimate.standard_error, estimate.df)


def test_the_table_for_two_checkpoints_is_reproduced_to_its_rounding() -> None:
    for questions, row in _TWO_CHECKPOINTS.items():
        for samples, printed in zip(_SAMPLES, row, strict=True):
            assert _points(CENTRAL, questions, 1, samples) == pytest.approx(printed, abs=0.051)


def test_the_table_for_methods_is_reproduced_with_its_own_degrees_of_freedom() -> None:
    # Its df are (V_q + V_s)^2 / (V_q^2 / (Q - 1) + V_s^2 / (2 (S - 1))), both with the residual part.
    for (questions, seeds), row in _METHODS.items():
        for samples, printed in zip(_SAMPLES, row, strict=True):
            both = 2 * (0.056**2 + 0.105 / samples) / (questions * seeds)
            v_q, v_s = 0.1**2 / questions + both, 2 * 0.011**2 / seeds + both
            df = (v_q + v_s) ** 2 / (v_q**2 / (questions - 1) + v_s**2 / (2 * (seeds - 1)))
            points = 100 * float(detectable_difference(np.sqrt(v_q + v_s - both), df))
            assert points == pytest.approx(printed, abs=0.051)


def test_the_shipped_degrees_of_freedom_cost_at_most_a_third_of_a_point_on_that_table() -> None:
    # They count the residual part too, without which intervals of three paired runs cover 90 to 93 %.
    for (questions, seeds), row in _METHODS.items():
        for samples, printed in zip(_SAMPLES, row, strict=True):
            assert -0.051 < _points(CENTRAL, questions, seeds, samples) - printed < 0.33


def test_other_scenarios_and_multiplicity_are_those_of_the_table() -> None:
    # 30 and 120 questions, then the first step of Holm for 1 to 32 contrasts.
    for components, printed in ((OPTIMISTIC, (4.1, 2.3)), (PESSIMISTIC, (10.2, 7.2))):
        for questions, points in zip((30, 120), printed, strict=True):
            assert -0.051 < _points(components, questions, 3, 32) - points < 0.33
    for contrasts, points in zip((1, 4, 8, 16, 32), (4.2, 5.2, 5.7, 6.2, 6.7), strict=True):
        assert _points(CENTRAL, 120, 3, 32, alpha=0.05 / contrasts) == pytest.approx(points, rel=0.09)


def test_paired_seeds_have_half_the_degrees_of_freedom_for_their_variance() -> None:
    # Only seeds vary: V = 2 * 0.01^2 / 3 with 2 (3 - 1) or 3 - 1 degrees of freedom.
    seeds_only = Components(omega=0.0, sigma_seed=0.01, sigma_seed_question=0.0, within=0.0)
    for paired, df in ((False, 4), (True, 2)):
        difference = design_detectable(seeds_only, questions=30, seeds=3, samples=1, paired_seeds=paired)
        assert difference == pytest.approx(float(detectable_difference(0.01 * (2 / 3) ** 0.5, df)))


def test_degrees_of_freedom_are_at_least_the_fewest_of_a_source_as_in_the_report() -> None:
    # Only samples vary: V = V_q = V_s = V_r = 2 * 0.1 / (3 * 30), with 1 / (1/29 + 1/2 + 1/58) = 1.8 df.
    samples_only = Components(omega=0.0, sigma_seed=0.0, sigma_seed_question=0.0, within=0.1)
    difference = design_detectable(samples_only, questions=30, seeds=3, samples=1, paired_seeds=True)
    assert difference == pytest.approx(float(detectable_difference((0.2 / 90) ** 0.5, 2)))


def test_five_benchmarks_are_like_one_with_all_their_questions_but_for_degrees_of_freedom() -> None:
    # Equal benchmarks: V_q is omega^2 / (5 * 30) either way; 5 * 29 instead of 149 degrees of freedom.
    questions_only = Components(omega=0.1, sigma_seed=0.0, sigma_seed_question=0.0, within=0.0)
    plan = {"questions": [30] * 5, "seeds": 1, "samples": 1, "paired_seeds": True}
    expected = float(detectable_difference(0.1 / 150**0.5, 145))
    assert design_detectable(questions_only, **plan) == pytest.approx(expected)  # type: ignore[arg-type]


def _arm(generator: np.random.Generator, base: Scores, *, known: Components, num_runs: int) -> Scores:
    """Scores [S, Q] of 16 samples around questions whose difference between two arms has SD omega."""
    num_questions = len(base)
    p = base + generator.normal(0, known.omega / 2**0.5, num_questions)
    p = p + generator.normal(0, known.sigma_seed, (num_runs, 1))
    p = p + generator.normal(0, known.sigma_seed_question, (num_runs, num_questions))
    return np.asarray(generator.binomial(16, p) / 16, dtype=np.float64)


@pytest.mark.parametrize("baseline_seeds", [range(40), range(40, 80)])
def test_components_are_found_again_in_runs_that_were_made_of_them(baseline_seeds: range) -> None:
    # p around 0.5 with SDs of 0.05 (arm), 0.02 and 0.06: within = 0.25 - 0.05^2 - 0.02^2 - 0.06^2 = 0.2435.
    known = Components(omega=0.05 * 2**0.5, sigma_seed=0.02, sigma_seed_question=0.06, within=0.2435)
    generator = np.random.default_rng(0)
    strata = [
        [_arm(generator, np.full(400, 0.5), known=known, num_runs=40) for _ in range(2)] for _ in range(2)
    ]
    left, right = ([benchmark[side] for benchmark in strata] for side in range(2))
    found = components_of(left[0], right[0], seeds=range(40), baseline_seeds=baseline_seeds, samples=16)
    assert astuple(found) == pytest.approx(astuple(known), rel=0.15)
    # Here benchmarks have their own seed effects: the SD of a run's mean over two is smaller by sqrt 2.
    pooled = components_of(left, right, seeds=range(40), baseline_seeds=baseline_seeds, samples=16)
    assert pooled.omega == pytest.approx(known.omega, rel=0.15)
    assert pooled.sigma_seed == pytest.approx(0.02 / 2**0.5, rel=0.2)


def test_runs_that_differ_less_than_their_samples_have_no_seed_variance() -> None:
    # Both runs of an arm are equal: V_r = V_s = 0, far below within / n. within = 0.25 * 4 / 3.
    table = np.full((2, 3), 0.5)
    found = components_of(table, table, seeds=[0, 1], baseline_seeds=[0, 1], samples=4)
    assert astuple(found) == pytest.approx((0.0, 0.0, 0.0, 1 / 3))


@pytest.mark.parametrize("baseline_seeds", [range(4), range(4, 8)])
def test_components_of_any_metric_add_up_to_the_interval_of_the_same_runs(baseline_seeds: range) -> None:
    generator = np.random.default_rng(1)
    known = Components(omega=0.1, sigma_seed=0.05, sigma_seed_question=0.05, within=0.1)
    base = generator.uniform(0.4, 0.6, 40)
    left, right = (_arm(generator, base, known=known, num_runs=4) for _ in range(2))
    found = components_of(left, right, seeds=range(4), baseline_seeds=baseline_seeds, samples=None)
    assert found.within == 0
    variance = found.omega**2 / 40 + 2 * found.sigma_seed**2 / 4 + 2 * found.sigma_seed_question**2 / 160
    estimate = difference_estimate(left, right, seeds=range(4), baseline_seeds=baseline_seeds)
    assert variance == pytest.approx(estimate.standard_error**2)


@pytest.mark.parametrize(("shape", "samples"), [((1, 30), 8), ((3, 1), 8), ((3, 30), 1)])
def test_components_need_runs_questions_and_samples(shape: tuple[int, int], samples: int) -> None:
    table, seeds = np.zeros(shape), range(shape[0])
    with pytest.raises(ValueError, match="components need two runs per arm"):
        components_of(table, table, seeds=seeds, baseline_seeds=seeds, samples=samples)


def test_advice_says_what_helps_most() -> None:
    plan = {"questions": 30, "seeds": 3, "samples": 32, "paired_seeds": False}
    advice = advise(CENTRAL, twice_sampled=CENTRAL, **plan)  # type: ignore[arg-type]
    assert 100 * advice.detectable == pytest.approx(_points(CENTRAL, 30, 3, 32))
    assert 100 * advice.two_more_seeds == pytest.approx(_points(CENTRAL, 30, 5, 32))
    assert 100 * advice.twice_the_questions == pytest.approx(_points(CENTRAL, 60, 3, 32))
    assert advice.twice_the_samples is not None
    assert 100 * advice.twice_the_samples == pytest.approx(_points(CENTRAL, 30, 3, 64))
    assert advice.best == "questions"
    noisy = Components(omega=0.0, sigma_seed=0.05, sigma_seed_question=0.0, within=0.1)
    assert advise(noisy, twice_sampled=noisy, **plan).best == "seeds"  # type: ignore[arg-type]


def test_advice_leaves_samples_out_where_it_is_not_known_what_they_add() -> None:
    plan = {"questions": 30, "seeds": 3, "samples": 1, "paired_seeds": False}
    guesses = Components(omega=0.0, sigma_seed=0.0, sigma_seed_question=0.0, within=0.2)
    assert advise(guesses, twice_sampled=replace(guesses, within=0.1), **plan).best == "samples"  # type: ignore[arg-type]
    unknown = advise(guesses, twice_sampled=None, **plan)  # type: ignore[arg-type]
    assert unknown.twice_the_samples is None
    assert unknown.best != "samples"


@pytest.mark.parametrize(
    "plan", [{"questions": 1}, {"questions": []}, {"questions": [30, 1]}, {"seeds": 0}, {"samples": 0}]
)
def test_a_plan_without_questions_runs_or_samples_is_refused(plan: dict[str, int]) -> None:
    whole = {"questions": 30, "seeds": 3, "samples": 8, "paired_seeds": True} | plan
    with pytest.raises(ValueError, match="two questions per benchmark, a seed and a sample"):
        design_detectable(CENTRAL, **whole)  # type: ignore[arg-type]


def test_a_power_below_chance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha / 2 < power < 1, got alpha 0\.05 and power 80"):
        detectable_difference(0.01, 10, power=80)
