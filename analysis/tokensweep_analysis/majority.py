"""The answers of one question, sorted by what they say, and the majority vote over a draw of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tokensweep.verifier import canonical
from tokensweep_analysis.passk import check_k


@dataclass(frozen=True, kw_only=True)
class Votes:
    """The samples of one question. All correct ones give one answer, whatever its notation."""

    num_correct: int
    wrong: tuple[int, ...] = ()  # samples that give each wrong answer, most frequent first
    num_silent: int = 0  # without an answer

    @property
    def num_samples(self) -> int:
        """All of them."""
        return self.num_correct + sum(self.wrong) + self.num_silent


def count_votes(samples: pd.DataFrame) -> dict[str, Votes]:
    """The votes of every question, by its id in sorted order; ``samples`` are rows of ``SCHEMA``.

    Wrong answers are the same when their extracted texts are after normalisation: other notations of one
    wrong value split its votes, which is kind to the right one. A sample that the grader failed on votes
    for what it says.
    """
    groups = samples[["question_id", "grade", "extracted"]].groupby("question_id", sort=True)
    return {str(question): _votes(group) for question, group in groups}


def _votes(samples: pd.DataFrame) -> Votes:
    others = samples[samples["grade"] != "correct"]
    wrong = Counter(canonical(text) for text in others["extracted"].dropna())
    return Votes(
        num_correct=len(samples) - len(others),
        wrong=tuple(sorted(wrong.values(), reverse=True)),
        num_silent=len(others) - wrong.total(),
    )


@lru_cache(maxsize=65536)
def maj_at_k(votes: Votes, k: int) -> float:
    """Probability that the majority of ``k`` samples drawn without replacement gives the right answer.

    The expectation over all draws, exact up to rounding. Of several answers with the most votes each is taken
    with the same probability; samples without an answer do not vote, and a draw of only those is not right.
    Raises ValueError for ``k`` above the number of samples.

    With t votes for the right answer, answers that cannot reach t votes are one class with the silent
    samples; the others are added one by one to a table of (answers that tie, votes). Counts drawn without
    replacement are independent binomial counts given that they sum to k, so the classes multiply.
    """
    check_k(votes.num_samples, k, name="maj@k")
    chance = _binomials(votes.num_samples, k)
    right = (
        chance[votes.num_correct, most] * _no_rival_ahead(votes, most, k - most, chance)
        for most in range(1, min(votes.num_correct, k) + 1)
    )
    return float(sum(right) / chance[votes.num_samples, k])


def _no_rival_ahead(votes: Votes, most: int, left: int, chance: NDArray[np.float64]) -> float:
    """Expected share of the tie if the other classes have ``left`` votes, 0 where one has above ``most``."""
    rivals = [size for size in votes.wrong if size >= most]
    others = votes.num_silent + sum(size for size in votes.wrong if size < most)
    table = np.zeros((len(rivals) + 1, left + 1))  # [answers that tie, votes]
    table[0] = chance[others, : left + 1]
    for size in rivals:
        table = _with_rival(table, chance[size], most)
    return float(table[:, left] @ (1 / np.arange(1, len(rivals) + 2)))


def _with_rival(table: NDArray[np.float64], chance: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """The table after one more answer got up to ``most`` votes, with ``most`` votes it ties."""
    width = table.shape[1]
    grown = np.zeros_like(table)
    for count in range(min(most, width)):
        grown[:, count:] += chance[count] * table[:, : width - count]
    if most < width:
        grown[1:, most:] += chance[most] * table[:-1, : width - most]
    return grown


@lru_cache(maxsize=256)
def _binomials(num_samples: int, k: int) -> NDArray[np.float64]:
    """Chance of v successes in w trials at ``k / num_samples`` each, [num_samples + 1, num_samples + 1]."""
    share = k / num_samples
    table = np.zeros((num_samples + 1, num_samples + 1))
    table[0, 0] = 1.0
    for trials in range(1, num_samples + 1):
        table[trials] = (1 - share) * table[trials - 1]
        table[trials, 1:] += share * table[trials - 1, :-1]
    return table
