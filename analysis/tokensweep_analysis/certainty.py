"""How well stated confidences fit the grades: calibration, what they tell apart, and a vote that they weigh.

Most of these numbers are no means over questions. So that intervals over questions and runs hold for them, a
question gets the number of all questions plus its own pull on it, which is seen from what the number is
without the question. Such scores have the number as their mean and the variance of the jackknife that leaves
out one question at a time; for a mean over questions they are the questions' own means.

Simulated 95 % intervals of one run (40 questions, 8 samples) cover 92 to 97 %, with two exceptions. The ECE
of a calibrated model is 0 and can only be overestimated: its interval covered 37 %, so the number is shown
beside its floor. The rate of overconfident errors covered 86 % where it is below 3 %, as rare events do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tokensweep_analysis.metrics import ROUNDED, Kind, Metric
from tokensweep_analysis.passk import check_k

Floats = NDArray[np.float64]

BINS = 10  # of the calibration error, equally wide
CERTAIN = 0.7  # an error with a larger confidence is overconfident: the strict one of arXiv:2604.05306
COVERAGE = 0.5  # of the selective accuracy
LEAST_STATED = 0.5  # share of samples below which nothing is computed: the others would be our guess
_DRAWS = 2000  # of a weighted vote where there are more; the error of a question's number is at most 0.011
_ROUNDING = 1e-10  # a smaller pull is rounding: what does not vary has no spread


@dataclass(frozen=True, kw_only=True, eq=False)
class Stated:
    """Samples of Q questions that state confidences, each question with n samples.

    A sample that states none has the confidence 1 if it gives an answer and 0 if it gives none.
    """

    confidence: Floats  # [Q, n] in [0, 1]
    correct: NDArray[np.bool_]  # [Q, n]
    answers: NDArray[np.int64]  # [Q, n] a number for what a sample says, negative for nothing
    fraction: float  # of samples that state one

    @classmethod
    def of(
        cls, confidence: Floats, *, correct: NDArray[np.bool_], answers: NDArray[np.int64]
    ) -> Stated | None:
        """From confidences [Q, n], NaN where none is stated; None where too few samples state one."""
        silent = np.isnan(confidence)
        fraction = 1 - float(silent.mean())
        if fraction < LEAST_STATED:
            return None
        filled = np.where(silent, (answers >= 0).astype(np.float64), confidence)
        return cls(confidence=filled, correct=correct, answers=answers, fraction=fraction)

    def scores(self, metric: Metric) -> Floats:
        """The metric per question, [Q], NaN where it is not defined.

        That is where there is no right or no wrong sample, for the AUROC, or no wrong one for the rate of
        overconfident errors, also without one of the questions. Raises ValueError for a k above n.
        """
        if metric.kind is Kind.weighted_maj_at:
            return weighted_majority_at_k(self, int(metric.at))
        return pulls(*self.histograms(), _FORMULAS[metric.kind])

    @property
    def floor(self) -> float:
        """ECE of a perfectly calibrated model with these confidences, from chance alone.

        In a bin the difference of right samples and confidences has the variance ``sum p (1 - p)``, and the
        mean of its size is ``sqrt(2 / pi)`` standard deviations where samples are many.
        """
        p = self.confidence.ravel()
        variance = np.bincount(bin_of(p), weights=p * (1 - p), minlength=BINS)
        return float(np.sqrt(2 / np.pi * variance).sum() / p.size)

    def histograms(self) -> tuple[Floats, Floats, Floats]:
        """The confidences that occur [K]; samples of a question that are right, and wrong, at each [Q, K]."""
        levels, place = np.unique(self.confidence, return_inverse=True)
        place = place.reshape(self.confidence.shape)
        right, wrong = np.zeros((2, len(place), len(levels)))
        rows = np.broadcast_to(np.arange(len(place))[:, None], place.shape)
        np.add.at(right, (rows[self.correct], place[self.correct]), 1)
        np.add.at(wrong, (rows[~self.correct], place[~self.correct]), 1)
        return levels, right, wrong


Formula = Callable[[Floats, Floats, Floats], Floats]  # (levels [K], right [..., K], wrong [..., K]) -> [...]


def pulls(levels: Floats, right: Floats, wrong: Floats, formula: Formula) -> Floats:
    """The number of all questions plus the pull of each, [Q]; without pull where there is one question.

    ``T + (Q - 1) (mean(T_without) - T_without_q)``.
    """
    all_right, all_wrong = right.sum(axis=0), wrong.sum(axis=0)
    whole = formula(levels, all_right, all_wrong)
    if len(right) == 1:
        return np.full(1, whole)
    without = formula(levels, all_right - right, all_wrong - wrong)
    pull = (len(right) - 1) * (without.mean() - without)
    return np.asarray(whole + np.where(np.abs(pull) < _ROUNDING, 0.0, pull))


def bin_of(confidence: Floats) -> NDArray[np.int64]:
    """The bin of each confidence, from 0. A bin has its upper edge and not its lower, the first has both."""
    tenths = np.ceil(np.round(confidence * BINS, 9))  # 0.7 * 10 is a little more than 7
    return np.asarray(np.clip(tenths, 1, BINS) - 1, dtype=np.int64)


def calibration_error(levels: Floats, right: Floats, wrong: Floats) -> Floats:
    """ECE: mean over samples of |accuracy - mean confidence| of their bin, of ten bins.

    Source: arXiv:1706.04599, equation 3. Biased upwards: see :attr:`Stated.floor`.
    """
    member = (bin_of(levels)[:, None] == np.arange(BINS)).astype(np.float64)  # [K, B]
    gaps = np.abs((right - levels * (right + wrong)) @ member)
    return np.asarray(gaps.sum(axis=-1) / _count(right, wrong))


def brier_score(levels: Floats, right: Floats, wrong: Floats) -> Floats:
    """Mean of ``(p - c)^2``."""
    return np.asarray((right @ (1 - levels) ** 2 + wrong @ levels**2) / _count(right, wrong))


def negative_log_likelihood(levels: Floats, right: Floats, wrong: Floats) -> Floats:
    """Mean of ``-log p`` of right and ``-log(1 - p)`` of wrong samples in nats, p held in [0.005, 0.995]."""
    p = np.clip(levels, ROUNDED, 1 - ROUNDED)
    return np.asarray(-(right @ np.log(p) + wrong @ np.log1p(-p)) / _count(right, wrong))


def area_under_curve(levels: Floats, right: Floats, wrong: Floats) -> Floats:
    """AUROC: the chance that a right sample is surer than a wrong one, ties half; NaN without either."""
    below = np.cumsum(wrong, axis=-1) - wrong / 2
    pairs = right.sum(axis=-1) * wrong.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray((right * below).sum(axis=-1) / pairs)


def overconfident_errors(levels: Floats, right: Floats, wrong: Floats) -> Floats:
    """Share of wrong samples with a confidence above 0.7; NaN without wrong ones."""
    with np.errstate(invalid="ignore"):
        return np.asarray(wrong[..., levels > CERTAIN].sum(axis=-1) / wrong.sum(axis=-1))


def selective_accuracy(levels: Floats, right: Floats, wrong: Floats) -> Floats:
    """Accuracy of the surer half of the samples; of those that tie at its border the average counts."""
    size = right + wrong
    wanted = COVERAGE * size.sum(axis=-1, keepdims=True)
    above = size[..., ::-1].cumsum(axis=-1)[..., ::-1] - size
    taken = np.clip(wanted - above, 0, size)
    rate = np.divide(right, size, out=np.zeros_like(right), where=size > 0)
    return np.asarray((taken * rate).sum(axis=-1) / wanted[..., 0])


_FORMULAS: Mapping[Kind, Formula] = {
    Kind.ece: calibration_error,
    Kind.brier: brier_score,
    Kind.nll: negative_log_likelihood,
    Kind.auroc: area_under_curve,
    Kind.overconfident_errors: overconfident_errors,
    Kind.selective_accuracy: selective_accuracy,
}


def _count(right: Floats, wrong: Floats) -> Floats:
    return np.asarray((right + wrong).sum(axis=-1))


def weighted_majority_at_k(stated: Stated, k: int) -> Floats:
    """Chance that the answer with the largest sum of confidences among k samples is right, [Q].

    As for maj@k draws are without replacement, samples without an answer do not vote and ties are split.
    Over all draws where there are at most 2,000, else over 2,000 that are the same everywhere. Raises
    ValueError for a k above the number of samples.
    """
    check_k(stated.confidence.shape[1], k, name=f"{Kind.weighted_maj_at}k")
    drawn = _draws(stated.confidence.shape[1], k)
    rows = zip(stated.confidence, stated.correct, stated.answers, strict=True)
    return np.array([_weighted_vote(drawn, *row) for row in rows])


def _weighted_vote(
    drawn: Floats, confidence: Floats, correct: NDArray[np.bool_], answers: NDArray[np.int64]
) -> float:
    """Of one question with draws [D, n] of 0 and 1."""
    _, says = np.unique(np.where(correct, -1, answers), return_inverse=True)  # the right answer comes first
    heard = correct | (answers >= 0)
    if not correct.any():
        return 0.0
    says = np.where(correct, 0, says)
    ballots = np.zeros((len(says), int(says.max()) + 1))
    ballots[np.flatnonzero(heard), says[heard]] = 1
    present = drawn @ ballots > 0
    weight = np.where(present, np.round(drawn @ (ballots * confidence[:, None]), 9), -1.0)
    leads = present & (weight == weight.max(axis=1, keepdims=True))
    return float((leads[:, 0] / np.maximum(leads.sum(axis=1), 1)).mean())


@lru_cache(maxsize=16)
def _draws(num_samples: int, k: int) -> Floats:
    """Draws of k samples as rows of 0 and 1, [D, n]; not to be written."""
    if comb(num_samples, k) <= _DRAWS:
        chosen = np.array(list(combinations(range(num_samples), k)))
    else:
        chosen = np.random.default_rng(0).random((_DRAWS, num_samples)).argsort(axis=1)[:, :k]
    drawn = np.zeros((len(chosen), num_samples))
    np.put_along_axis(drawn, chosen, 1.0, axis=1)
    drawn.setflags(write=False)
    return drawn


def stated_in(samples: pd.DataFrame, answers: Callable[[str], str]) -> Stated | None:
    """From rows of ``SCHEMA``, equally many for each question; ``answers`` gives the normal form of one."""
    ordered = samples.sort_values(["question_id", "sample_idx"])
    size = ordered["question_id"].nunique()
    said = ordered["extracted"].map(answers, na_action="ignore")
    codes = pd.factorize(said)[0].astype(np.int64)
    return Stated.of(
        ordered["confidence"].to_numpy(dtype=np.float64).reshape(size, -1),
        correct=(ordered["grade"] == "correct").to_numpy().reshape(size, -1),
        answers=codes.reshape(size, -1),
    )
