"""Variances of pass@k, pass^k and cover@tau are those of the accuracies of questions that they come from."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from scipy import special

from tokensweep_analysis.assumed import components_for
from tokensweep_analysis.metrics import AVERAGE, Kind, Metric, by_count
from tokensweep_analysis.power import CENTRAL, OPTIMISTIC, PESSIMISTIC, Components

# Of p ~ Beta(0.3, 0.7): E[p (1 - p)] = 0.3 * 0.7 / 2 and E[p^2 (1 - p)^2] = 0.3 * 1.3 * 0.7 * 1.7 / 24.
_SLOPE, _SLOPE_SQUARED = 0.105, 0.0193375


@pytest.mark.parametrize("scenario", [OPTIMISTIC, CENTRAL, PESSIMISTIC])
@pytest.mark.parametrize("samples", [1, 16, 64])
def test_components_of_an_average_stay_what_they_are(scenario: Components, samples: int) -> None:
    assert astuple(components_for(AVERAGE, scenario, samples=samples)) == pytest.approx(astuple(scenario))


def test_components_of_pass_at_2_are_the_moments_of_the_beta_distribution() -> None:
    # g = 1 - q^2 with q = 1 - p, and 0 or 1 from two samples: E[g (1 - g)] = E[q^2] - E[q^4]
    # = 0.7 * 1.7 / 2 - 0.7 * 1.7 * 2.7 * 3.7 / 24 = 0.0996625. The log-odds move g by p q * 2 q:
    # E = 2 * 0.3 * 0.7 * 1.7 / 6 = 0.119, and 4 E[p^2 q^4] = 4 * 0.3 * 1.3 * 0.7 * 1.7 * 2.7 * 3.7 / 720.
    small = Components(omega=0.001, sigma_seed=0.011, sigma_seed_question=0.001, within=0.105)
    found = components_for(Metric(Kind.pass_at, 2), small, samples=2)
    assert found.within / 2 == pytest.approx(0.0996625)
    assert found.sigma_seed == pytest.approx(0.011 * 0.119 / _SLOPE)
    ratio = (4 * 4.636359 / 720 / _SLOPE_SQUARED) ** 0.5
    assert found.omega == pytest.approx(
        0.001 * ratio, rel=0.001
    )  # exact for effects that are infinitely small
    assert found.sigma_seed_question == pytest.approx(0.001 * ratio, rel=0.001)


@pytest.mark.parametrize("metric", [Metric(Kind.pass_hat, 2), Metric(Kind.cover_at, 1.0)])
def test_components_of_pass_hat_2_are_the_moments_too(metric: Metric) -> None:
    # g = p^2: E[p^2] - E[p^4] = 0.3 * 1.3 / 2 - 0.3 * 1.3 * 2.3 * 3.3 / 24, slope 2 p^2 (1 - p):
    # 2 * 0.3 * 1.3 * 0.7 / 6. Both of two samples correct is also what cover@1 asks of two samples.
    found = components_for(metric, CENTRAL, samples=2)
    assert found.within / 2 == pytest.approx(0.0716625)
    assert found.sigma_seed == pytest.approx(0.011 * 0.091 / _SLOPE)


def test_more_samples_lower_the_noise_of_pass_at_k_and_leave_its_effects() -> None:
    few, many = (components_for(Metric(Kind.pass_at, 8), CENTRAL, samples=n) for n in (8, 64))
    assert astuple(many)[:3] == pytest.approx(astuple(few)[:3])
    assert many.within / 64 < few.within / 8 / 4  # falls faster than the number of samples while k is near n


def _simulated(metric: Metric, known: Components, *, samples: int, num_contrasts: int = 4000) -> float:
    """SD of a contrast of two arms with 3 runs each on 30 questions, effects in log-odds."""
    generator = np.random.default_rng(0)
    base = special.logit(np.clip(generator.beta(0.3, 0.7, (num_contrasts, 1, 1, 30)), 1e-12, 1 - 1e-12))
    per_question = known.omega / 2**0.5 / _SLOPE_SQUARED**0.5
    seed = known.sigma_seed / _SLOPE
    # A seed moves questions of medium accuracy more than others: that is part of sigma_seed_question.
    cell = (known.sigma_seed_question**2 - seed**2 * (_SLOPE_SQUARED - _SLOPE**2)) / _SLOPE_SQUARED
    log_odds = base + generator.normal(0, per_question, (num_contrasts, 2, 1, 30))
    log_odds = log_odds + generator.normal(0, seed, (num_contrasts, 2, 3, 1))
    log_odds = log_odds + generator.normal(0, cell**0.5, (num_contrasts, 2, 3, 30))
    scores = by_count((metric,), samples)[generator.binomial(samples, special.expit(log_odds)), 0]
    left, right = scores.mean(axis=(2, 3)).T
    return float((left - right).std())


@pytest.mark.parametrize("scenario", [CENTRAL, PESSIMISTIC])
@pytest.mark.parametrize(
    ("metric", "samples", "most"),
    [
        # 4000 contrasts leave 1.1 % (SD). Effects of finite size that add up in log-odds saturate, hence move
        # accuracies 3 to 6 % less than their components say: what is planned is rather too large.
        (AVERAGE, 16, 1.08),
        (Metric(Kind.pass_at, 4), 16, 1.08),
        (Metric(Kind.pass_at, 8), 16, 1.08),
        (Metric(Kind.pass_at, 4), 64, 1.08),
        (Metric(Kind.pass_hat, 8), 16, 1.08),
        (Metric(Kind.cover_at, 0.5), 16, 1.18),  # a step: one effect hides what another one would do
        (Metric(Kind.cover_at, 0.5), 64, 1.18),
    ],
)
def test_the_sd_of_simulated_contrasts_is_the_planned_one(
    metric: Metric, samples: int, most: float, scenario: Components
) -> None:
    found = components_for(metric, scenario, samples=samples)
    cell = found.sigma_seed_question**2 + found.within / samples
    planned = (found.omega**2 / 30 + 2 * found.sigma_seed**2 / 3 + 2 * cell / 90) ** 0.5
    assert 0.97 < planned / _simulated(metric, scenario, samples=samples) < most


def test_maj_at_k_needs_finished_runs() -> None:
    with pytest.raises(ValueError, match="maj@8 depends on which wrong answers agree"):
        components_for(Metric(Kind.maj_at, 8), CENTRAL, samples=16)
