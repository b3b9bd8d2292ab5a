"""Calibration metrics against independent references and by hand, and intervals that hold their level."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import bernoulli, hypergeom, mannwhitneyu

from tokensweep_analysis.certainty import Stated, stated_in
from tokensweep_analysis.intervals import arm_estimate
from tokensweep_analysis.metrics import CERTAINTY, Kind, Metric, stated_metrics_of

Floats = NDArray[np.float64]


def stated(confidence: object, correct: object, answers: object = None) -> Stated:
    """Samples [Q, n]; without answers, all wrong ones say the same."""
    right = np.asarray(correct, dtype=bool)
    said = np.where(right, 0, 1) if answers is None else np.asarray(answers)
    made = Stated.of(np.asarray(confidence, dtype=np.float64), correct=right, answers=said)
    assert made is not None
    return made


def drawn(seed: int, *, questions: int = 40, samples: int = 8) -> Stated:
    """Samples whose stated confidence, in steps of 0.1, is their chance to be right, a fifth too large."""
    draw = np.random.default_rng(seed)
    ability = draw.beta(1.2, 1.8, size=(questions, 1))
    chance = np.clip(ability + 0.15 * draw.standard_normal((questions, samples)), 0, 1)
    confidence = np.round(np.clip(1.2 * chance + 0.05, 0, 1), 1)
    return stated(confidence, draw.random((questions, samples)) < chance)


def value(kind: Kind, samples: Stated) -> float:
    return float(samples.scores(Metric(kind)).mean())


def test_a_confidence_that_equals_the_accuracy_of_its_bin_has_no_calibration_error() -> None:
    # 0.25 with one of four right, 0.5 with one of two right, 1.0 and 0.0 as they say
    confidence = [[0.25] * 4, [0.5, 0.5, 1.0, 0.0]]
    assert value(Kind.ece, stated(confidence, [[1, 0, 0, 0], [1, 0, 1, 0]])) == pytest.approx(0)


def test_the_calibration_error_by_hand() -> None:
    # Bin (0.7, 0.8]: 0.75 and 0.8, one right: |1 - 1.55| = 0.55; bin (0.6, 0.7]: 0.7, right: 0.3;
    # bin [0, 0.1]: 0, right: 1. All of 4: 1.85 / 4.
    assert value(Kind.ece, stated([[0.75, 0.8], [0.7, 0.0]], [[1, 0], [1, 1]])) == pytest.approx(1.85 / 4)


@pytest.mark.parametrize("tenth", range(1, 11))
def test_an_edge_belongs_to_the_bin_below_it(tenth: int) -> None:
    # p and p - 0.05 share a bin: |1 - (2p - 0.05)| / 2, were they apart |1 - p| + (p - 0.05) over 2
    p = tenth / 10
    got = value(Kind.ece, stated([[p, p - 0.05]], [[1, 0]]))
    assert got == pytest.approx(abs(1.05 - 2 * p) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_numbers_agree_with_independent_ones(seed: int) -> None:
    samples = drawn(seed)
    p, c = samples.confidence.ravel(), samples.correct.ravel()
    assert value(Kind.brier, samples) == pytest.approx(np.square(p - c).mean())
    assert value(Kind.nll, samples) == pytest.approx(-bernoulli.logpmf(c, p.clip(0.005, 0.995)).mean())
    wins = mannwhitneyu(p[c], p[~c]).statistic  # pairs in which the right one is surer, ties count half
    assert value(Kind.auroc, samples) == pytest.approx(wins / (c.sum() * (~c).sum()))
    assert value(Kind.overconfident_errors, samples) == pytest.approx((p[~c] > 0.7).mean())
    bins = np.digitize(np.round(p, 9), np.arange(1, 10) / 10, right=True)  # ((m - 1) / 10, m / 10]
    table = pd.DataFrame({"bin": bins, "p": p, "c": c}).groupby("bin")
    gaps = (table["p"].mean() - table["c"].mean()).abs() * table.size() / p.size
    assert value(Kind.ece, samples) == pytest.approx(gaps.sum())
    # the surer half, ties in random order, many times
    draw = np.random.default_rng(0)
    halves = [c[np.lexsort((draw.random(p.size), -p))][: p.size // 2].mean() for _ in range(4000)]
    assert value(Kind.selective_accuracy, samples) == pytest.approx(np.mean(halves), abs=0.003)


@pytest.mark.parametrize("kind", CERTAINTY)
def test_scores_have_the_variance_of_leaving_out_one_question(kind: Kind) -> None:
    # (Q - 1) / Q times the sum of squares of the numbers without each question
    samples = drawn(7, questions=12)
    without = [
        value(
            kind,
            stated(np.delete(samples.confidence, q, 0), np.delete(samples.correct, q, 0)),
        )
        for q in range(12)
    ]
    expected = 11 / 12 * np.square(np.array(without) - np.mean(without)).sum()
    scores = samples.scores(Metric(kind))
    assert np.var(scores, ddof=1) / 12 == pytest.approx(expected, rel=1e-6)


def test_a_mean_over_questions_gives_each_its_own_mean() -> None:
    samples = drawn(3)
    own = ((samples.confidence - samples.correct) ** 2).mean(axis=1)
    np.testing.assert_allclose(samples.scores(Metric(Kind.brier)), own, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_calibration_error_and_brier_score_are_shares(seed: int) -> None:
    draw = np.random.default_rng(seed)
    samples = stated(draw.random((6, 3)), draw.random((6, 3)) < 0.5)
    assert 0 <= value(Kind.ece, samples) <= 1
    assert 0 <= value(Kind.brier, samples) <= 1


def test_what_is_not_defined_is_not_a_number() -> None:
    right = stated([[0.9, 0.8], [0.7, 1.0]], np.ones((2, 2)))
    assert np.isnan(right.scores(Metric(Kind.auroc))).all()
    assert np.isnan(right.scores(Metric(Kind.overconfident_errors))).all()
    assert value(Kind.selective_accuracy, right) == 1
    # the only errors are in the second question: without it there is no AUROC, so no question has a pull
    mixed = stated([[0.9, 0.8], [0.7, 0.2]], [[1, 1], [1, 0]])
    assert np.isnan(mixed.scores(Metric(Kind.auroc))).any()


def test_a_sample_without_a_confidence_is_sure_of_its_answer() -> None:
    # 1 for an answer and 0 for none; a wrong one, a right one, and nothing at all
    samples = stated([[np.nan, np.nan, np.nan, 0.5, 0.5, 0.5]], [[0, 1, 0, 1, 1, 0]], [[1, 0, -1, 0, 0, 1]])
    assert samples.confidence.tolist() == [[1, 1, 0, 0.5, 0.5, 0.5]]
    assert samples.fraction == 0.5


def test_too_few_statements_are_no_calibration() -> None:
    confidence = np.array([[np.nan, np.nan, 0.5]])
    assert Stated.of(confidence, correct=confidence > 0, answers=np.zeros((1, 3), dtype=np.int64)) is None


def test_a_vote_weighs_answers_by_their_confidence() -> None:
    # Right 0.9 + 0.2 against 0.5 + 0.5: of all four it wins, the plain vote is a tie. Of pairs: right alone
    # (1 of 6) wins, 0.9 against 0.5 wins twice, 0.2 loses twice, wrong alone loses.
    samples = stated([[0.9, 0.2, 0.5, 0.5]], [[1, 1, 0, 0]], [[3, 4, 7, 7]])
    assert samples.scores(Metric(Kind.weighted_maj_at, 4)).tolist() == [1]
    assert samples.scores(Metric(Kind.weighted_maj_at, 2)) == pytest.approx([3 / 6])


def test_ties_and_silence_in_a_weighted_vote() -> None:
    # 0.1 + 0.2 ties with 0.3; a sample without an answer has no vote however sure it is
    samples = stated([[0.1, 0.2, 0.3, 1.0]], [[1, 1, 0, 0]], [[0, 0, 5, -1]])
    assert samples.scores(Metric(Kind.weighted_maj_at, 4)).tolist() == [0.5]
    # nothing but silence is not right; confidences of 0 tie
    silent = stated([[0.5, 0.5], [0.0, 0.0]], [[0, 0], [1, 0]], [[-1, -1], [0, 1]])
    assert silent.scores(Metric(Kind.weighted_maj_at, 2)).tolist() == [0, 0.5]


def test_equal_confidences_give_the_plain_majority() -> None:
    draw = np.random.default_rng(2)
    answers = draw.integers(-1, 3, size=(5, 7))
    samples = stated(np.full((5, 7), 0.4), answers == 0, answers)
    got = samples.scores(Metric(Kind.weighted_maj_at, 3))
    for own, score in zip(answers, got, strict=True):
        shares = []
        for chosen in combinations(own, 3):
            counts = [chosen.count(answer) for answer in range(3)]
            leads = [answer for answer in range(3) if counts[answer] == max(counts) > 0]
            shares.append((0 in leads) / max(len(leads), 1))
        assert score == pytest.approx(np.mean(shares))


def test_many_draws_are_sampled_and_few_are_all_taken() -> None:
    # 9 of 20 samples are right, equally sure, and the others agree: right wins with 6 or more of 11 drawn.
    correct = np.arange(20)[None] < 9
    samples = stated(np.full((1, 20), 0.5), correct)
    expected = float(hypergeom(20, 9, 11).sf(5))
    got = float(samples.scores(Metric(Kind.weighted_maj_at, 11))[0])
    assert got == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 2000) ** 0.5)


def test_rows_of_an_evaluation_become_samples() -> None:
    frame = pd.DataFrame(
        {
            "question_id": ["b", "a", "b", "a"],
            "sample_idx": [1, 0, 0, 1],
            "confidence": [0.1, 0.2, None, 0.4],
            "grade": ["wrong", "correct", "correct", "no_answer"],
            "extracted": ["X", "x", "y", None],
        }
    )
    made = stated_in(frame, str.lower)
    assert made is not None
    assert made.confidence.tolist() == [[0.2, 0.4], [1, 0.1]]
    assert made.correct.tolist() == [[True, False], [True, False]]
    assert made.answers[0, 0] == made.answers[1, 1]
    assert made.answers[0, 1] == -1


def test_the_floor_is_the_calibration_error_that_chance_gives_a_calibrated_model() -> None:
    draw = np.random.default_rng(4)
    confidence = np.round(draw.random((40, 8)), 2)
    by_chance = [value(Kind.ece, stated(confidence, draw.random((40, 8)) < confidence)) for _ in range(400)]
    floor = stated(confidence, confidence > 0.5).floor
    # its normal approximation is within a twentieth for about 32 samples a bin
    assert np.mean(by_chance) == pytest.approx(floor, rel=0.05)


@pytest.mark.parametrize("kind", CERTAINTY)
def test_intervals_hold_their_level(kind: Kind) -> None:
    # 400 evaluations of 40 questions: a true coverage of 95 % is seen with a standard error of 1.1 points.
    truth = value(kind, drawn(10_000, questions=4000))
    inside = []
    for seed in range(400):
        scores = drawn(seed).scores(Metric(kind))[None]
        estimate = arm_estimate(scores)
        inside.append(estimate.low <= truth <= estimate.high)
    assert 0.91 <= np.mean(inside) <= 0.99, np.mean(inside)


def test_there_is_a_weighted_vote_of_every_k_above_one() -> None:
    names = [str(metric) for metric in stated_metrics_of([1, 8, 4])]
    assert names == [
        *("weighted maj@4", "weighted maj@8", "ECE", "Brier", "NLL, 0.01 nat", "AUROC"),
        *("overconfident errors", "selective accuracy"),
    ]
