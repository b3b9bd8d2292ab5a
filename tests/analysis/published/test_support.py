"""What a printed difference supports: intervals and detectable differences of known designs."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from tokensweep_analysis.power import Components
from tokensweep_analysis.published.reader import Cell
from tokensweep_analysis.published.support import (
    Protocol,
    Verdict,
    detectable,
    standard_error,
    supports,
)

Read = Callable[..., tuple[Cell, ...]]


def _difference(value: str, baseline: str, **changes: str) -> list[dict[str, str]]:
    arm = {"metric": "avg@32 (%)", **changes}
    return [{**arm, "value": baseline}, {**arm, "variant": "new", "value": value, "baseline_value": baseline}]


def test_the_variance_of_a_difference_is_the_sum_of_its_parts() -> None:
    # .2^2/100 + 2 .03^2/2 + 2 .1^2/(100 2) + 2 .25/(100 2 5) = .0004 + .0009 + .0001 + .0005 = .0019
    components = Components(omega=0.2, sigma_seed=0.03, sigma_seed_question=0.1, within=0.25)
    protocol = Protocol(num_questions=100, num_samples=5)
    assert standard_error([protocol], num_seeds=2, components=components) ** 2 == pytest.approx(0.0019)


def test_benchmarks_average_out_questions_but_not_seeds() -> None:
    # As above with S = 1: .0004 + .0002 + .001 halve over two benchmarks, 2 .03^2 = .0018 stays.
    components = Components(omega=0.2, sigma_seed=0.03, sigma_seed_question=0.1, within=0.25)
    protocol = Protocol(num_questions=100, num_samples=5)
    assert standard_error([protocol] * 2, components=components) ** 2 == pytest.approx(0.0008 + 0.0018)


@pytest.mark.parametrize(
    ("questions", "samples", "seeds", "smallest"),
    [
        (30, 16, 1, 10.1),
        (30, 32, 1, 9.2),
        (60, 32, 1, 7.1),
        (120, 32, 1, 5.9),
        (30, 32, 3, 6.9),
        (30, 64, 5, 6.1),
        (60, 32, 3, 5.2),
        (120, 32, 3, 4.2),
        (120, 16, 5, 3.7),
    ],
)
def test_the_detectable_difference_is_that_of_the_design_table(
    questions: int, samples: int, seeds: int, smallest: float
) -> None:
    # Computed independently of this code, for methods on questions like these, and checked by simulation.
    protocol = Protocol(num_questions=questions, num_samples=samples)
    assert 100 * detectable([protocol], num_seeds=seeds) == pytest.approx(smallest, abs=0.06)


@pytest.mark.parametrize(
    ("value", "baseline", "metric", "low", "high", "verdict"),
    [
        # SE: sqrt(.01/30 + 2 .011^2 + 2 .056^2/30 + 2 .105/(30 n)) = .0350, .0882, .0317 for n = 16, 1, 32
        ("63.54", "55.83", "avg@16 (%)", 0.9, 14.6, Verdict.supported),
        ("46.7", "40.0", "pass@1 greedy (%)", -10.6, 24.0, Verdict.inconclusive),
        ("50", "30", "avg@32 (%)", 13.8, 26.2, Verdict.supported),
        ("42", "41", "avg@32 (%)", -5.2, 7.2, Verdict.inconclusive),
    ],
)
def test_printed_differences_get_an_interval_and_a_verdict(
    read: Read, value: str, baseline: str, metric: str, low: float, high: float, verdict: Verdict
) -> None:
    (found,) = supports(read(*_difference(value, baseline, metric=metric)))
    assert found.low == pytest.approx(low, abs=0.06)
    assert found.high == pytest.approx(high, abs=0.06)
    assert found.verdict is verdict


def test_pooled_benchmarks_are_judged_by_their_mean_difference(read: Read) -> None:
    # (7.71 + 11.04) / 2 = 9.375; SE^2 = (9.8e-4) / 2 + 2.42e-4, so 1.96 SE = 5.3
    rows = [
        *_difference("63.54", "55.83", metric="avg@16 (%)"),
        *_difference("56.67", "45.63", metric="avg@16 (%)", benchmark="AIME25"),
    ]
    pooled = supports(read(*rows), pool=["AIME24", "aime25"])[-1]
    assert (pooled.difference, pooled.low, pooled.high) == pytest.approx((9.375, 4.07, 14.68), abs=0.02)


def test_a_printed_average_is_judged_over_its_benchmarks(read: Read) -> None:
    rows = [
        *_difference("63.54", "55.83", metric="avg@16 (%)"),
        *_difference("56.67", "45.63", metric="avg@16 (%)", benchmark="AIME25"),
        *_difference("60.11", "50.73", metric="avg@16 (%)", benchmark="Avg."),
    ]
    (average,) = (each for each in supports(read(*rows)) if each.is_mean)
    assert (average.low, average.high) == pytest.approx((4.08, 14.68), abs=0.02)


def test_three_training_runs_speak_of_the_method(read: Read) -> None:
    (found,) = supports(read(*_difference("50.0", "30.0", source_note="3 training seeds")))
    assert (found.verdict, found.num_seeds) == (Verdict.supported_method, 3)


def test_unknown_samples_can_make_a_difference_inconclusive_but_never_supported(read: Read) -> None:
    # Even with unlimited samples 1.96 SE = 5.5 points on 30 questions.
    (small,) = supports(read(*_difference("34.0", "30.0", metric="accuracy (%)")))
    (large,) = supports(read(*_difference("50.0", "30.0", metric="accuracy (%)")))
    assert (small.verdict, large.verdict) == (Verdict.inconclusive, Verdict.unknown)
    assert small.protocols[0].num_samples == inf


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"benchmark": "Our own exam"}, "size of Our own exam unknown"),
        ({"metric": "maj@8 (%)"}, "no variance components for maj@8"),
    ],
)
def test_what_cannot_be_judged_says_why(read: Read, changes: dict[str, str], remark: str) -> None:
    (found,) = supports(read(*_difference("50.0", "30.0", **changes)))
    assert (found.verdict, found.remark) == (Verdict.unknown, remark)


def test_pass_at_k_off_k_samples_counts_as_one_draw(read: Read) -> None:
    (found,) = supports(read(*_difference("50.0", "30.0", metric="pass@8 (%)", k="8")))
    assert found.protocols == (Protocol(num_questions=30, num_samples=1),)


def test_token_counts_are_no_differences_to_judge(read: Read) -> None:
    assert supports(read(*_difference("12000", "9000", metric="mean response tokens"))) == []
