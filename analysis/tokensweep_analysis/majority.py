"""The answers of questions, sorted by what they say, and the majority vote over a draw of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tokensweep.verifier import canonical
from tokensweep_analysis.passk import check_k

Counts = NDArray[np.int32]
_Floats = NDArray[np.float64]
_Waves = NDArray[np.complex128]

_ROWS_AT_ONCE = 2048  # questions; their table of 29 complex numbers each then fits into a core's cache
# Wrong answers come again and again.
normal_answer = lru_cache(maxsize=1 << 17)(canonical)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class VoteTable:
    """The votes of Q questions that have equally many samples."""

    num_samples: int  # of each question
    num_correct: Counts  # [Q]
    wrong: Counts  # [Q, W] samples that give each wrong answer, most frequent first, then zeros

    @classmethod
    def of(cls, questions: Sequence[Votes]) -> VoteTable:
        """The table of single questions. Raises ValueError unless all have the same number of samples."""
        sizes = {votes.num_samples for votes in questions}
        if len(sizes) != 1:
            raise ValueError(f"a table of votes needs one number of samples, got {sorted(sizes)}")
        width = max(len(votes.wrong) for votes in questions)
        wrong = [sorted(votes.wrong, reverse=True) + [0] * (width - len(votes.wrong)) for votes in questions]
        return cls(
            num_samples=sizes.pop(),
            num_correct=np.array([votes.num_correct for votes in questions], dtype=np.int32),
            wrong=np.array(wrong, dtype=np.int32).reshape(len(questions), width),
        )

    @classmethod
    def count(cls, correct: NDArray[np.bool_], answers: NDArray[np.int64]) -> VoteTable:
        """From samples [Q, n]: which are correct, and a number for what each says, negative for nothing."""
        num_questions, num_samples = correct.shape
        heard = ~correct & (answers >= 0)
        width = int(answers.max(initial=0)) + 1
        question = np.broadcast_to(np.arange(num_questions)[:, None], heard.shape)[heard]
        said, votes = np.unique(question * width + answers[heard], return_counts=True)
        order = np.lexsort((-votes, said // width))
        question, votes = said[order] // width, votes[order]
        place = np.arange(len(votes)) - np.searchsorted(question, question)
        wrong = np.zeros((num_questions, int(place.max(initial=-1)) + 1), dtype=np.int32)
        wrong[question, place] = votes
        return cls(num_samples=num_samples, num_correct=correct.sum(axis=1, dtype=np.int32), wrong=wrong)

    @classmethod
    def join(cls, tables: Sequence[VoteTable]) -> VoteTable:
        """The questions of several tables, one after the other. Raises ValueError as :meth:`of` does."""
        sizes = {table.num_samples for table in tables}
        if len(sizes) != 1:
            raise ValueError(f"a table of votes needs one number of samples, got {sorted(sizes)}")
        num_correct = np.concatenate([table.num_correct for table in tables])
        wrong = np.zeros((len(num_correct), max(table.wrong.shape[1] for table in tables)), dtype=np.int32)
        ends = np.cumsum([len(table) for table in tables])
        for table, end in zip(tables, ends.tolist(), strict=True):
            wrong[end - len(table) : end, : table.wrong.shape[1]] = table.wrong
        return cls(num_samples=sizes.pop(), num_correct=num_correct, wrong=wrong)

    def __len__(self) -> int:
        return len(self.num_correct)

    def __iter__(self) -> Iterator[Votes]:
        silent = self.num_samples - self.num_correct - self.wrong.sum(axis=1)
        for correct, wrong, rest in zip(self.num_correct, self.wrong, silent, strict=True):
            yield Votes(
                num_correct=int(correct), wrong=tuple(wrong[wrong > 0].tolist()), num_silent=int(rest)
            )


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
    wrong = Counter(normal_answer(text) for text in others["extracted"].dropna())
    return Votes(
        num_correct=len(samples) - len(others),
        wrong=tuple(sorted(wrong.values(), reverse=True)),
        num_silent=len(others) - wrong.total(),
    )


@lru_cache(maxsize=65536)
def maj_at_k(votes: Votes, k: int) -> float:
    """:func:`majority_at_k` of one question."""
    check_k(votes.num_samples, k, name="maj@k")
    return float(majority_at_k(VoteTable.of([votes]), k)[0])


def majority_at_k(table: VoteTable, k: int) -> _Floats:
    """Probability that the majority of ``k`` samples drawn without replacement gives the right answer, [Q].

    The expectation over all draws, exact up to rounding. Of several answers with the most votes each is taken
    with the same probability; samples without an answer do not vote, and a draw of only those is not right.
    Raises ValueError for ``k`` above the number of samples.

    Questions with the same votes are computed once; see :class:`_Draw` for how.
    """
    check_k(table.num_samples, k, name="maj@k")
    if k == 1:
        shares: _Floats = table.num_correct / table.num_samples
        return shares
    most = table.wrong.max(axis=1, initial=0)
    if k == table.num_samples:
        ties = (table.wrong == table.num_correct[:, None]).sum(axis=1)
        return np.where((table.num_correct >= most) & (table.num_correct > 0), 1 / (1 + ties), 0.0)
    result = np.zeros(len(table))
    draw = _Draw(num_samples=table.num_samples, k=k)
    open_ = np.flatnonzero(table.num_correct)
    if not len(open_):
        return result
    votes = np.column_stack([table.num_correct, table.wrong])[open_]
    order = np.lexsort(votes.T[::-1])  # a fifth of the time of np.unique, which compares rows as records
    votes = votes[order]
    is_new = np.append(True, (votes[1:] != votes[:-1]).any(axis=1))
    profiles = votes[is_new]
    parts = np.split(profiles, range(_ROWS_AT_ONCE, len(profiles), _ROWS_AT_ONCE))
    values = np.concatenate([draw.right(part[:, 0], part[:, 1:]) for part in parts])
    result[open_[order]] = values[np.cumsum(is_new) - 1]
    return result


class _Draw:
    """Draws of ``k`` of ``n`` samples without replacement, as independent counts given that they sum to k.

    Take every sample with probability k/n: the counts of the answers are then independent and binomial, and
    given that they sum to k they are those of a draw. So the chance that the right answer has m votes and
    no other has more is a product of polynomials in z, of which the coefficient of z^(k-m) is read; the
    polynomial of an answer with s samples is its binomial cut off above m. Where T answers tie with the
    right one its share is 1/(1+T), the integral of x^T over [0, 1]: the term of z^m gets the factor x, and
    Gauss-Legendre nodes for x make the integral exact. Polynomials are kept as their values at K roots of
    unity, where a product is one multiplication; as no coefficient is read that another one folds onto, that
    is exact too. All values lie within the unit circle, so rounding stays at 1e-16 over the chance that
    independent counts sum to k, which is 0.02 for n = 2000 and k = 1000.
    """

    def __init__(self, *, num_samples: int, k: int) -> None:
        self.n, self.k = num_samples, k
        self.chance = _binomials(num_samples, k)
        size = max(num_samples - k, k - 1) + 1  # other exponents than k - m fold onto others than k - m
        waves = np.exp(2j * np.pi * np.arange(size // 2 + 1) / size)  # the rest are their conjugates
        weights = np.full(len(waves), 2.0 / size)
        weights[0] = 1.0 / size
        if size % 2 == 0:
            weights[-1] = 1.0 / size
        self.waves, self.weights = waves, weights
        share = k / num_samples
        self.free = (1 - share + share * waves) ** np.arange(num_samples + 1)[:, None]  # whole binomials

    def right(self, num_correct: Counts, wrong: Counts) -> _Floats:
        """The expected share of the right answer, of profiles [P] and [P, W]."""
        n, k = self.n, self.k
        classes = _Classes.of(wrong, num_samples=n)
        total = np.zeros(len(num_correct))
        below = np.zeros((len(classes.sizes), len(self.waves)), dtype=np.complex128)  # up to m - 1 votes each
        for most in range(1, min(k, int(num_correct.max(initial=0))) + 1):
            below += self.chance[classes.sizes, most - 1][:, None] * self.waves ** (most - 1)
            able = num_correct >= most
            free = able & (classes.largest < most)  # nobody else can reach as many
            got = self.chance[num_correct, most]
            total[free] += got[free] * self.chance[n - num_correct[free], k - most]
            rows = np.flatnonzero(able & (classes.largest >= most))
            if len(rows):
                total[rows] += got[rows] * self._held(classes, rows, most, n - num_correct[rows], below)
        expected: _Floats = np.clip(total / self.chance[n, k], 0.0, 1.0)
        return expected

    def _held(
        self, classes: _Classes, rows: NDArray[np.intp], most: int, votes: Counts, below: _Waves
    ) -> _Floats:
        """Share of the tie with ``most`` votes if the others, ``votes`` in all, get the rest of the draw."""
        tie = self.chance[classes.sizes, most][:, None] * self.waves**most
        rivals = classes.sizes >= most
        slots = classes.slots[rows]
        slots = slots[:, rivals[slots].any(axis=0)]
        strong = (classes.sizes * classes.repeats * rivals)[slots].sum(axis=1)
        rest = self.free[votes - strong]
        read = self.weights * self.waves ** (most - self.k)
        ties = min(int((classes.repeats * rivals)[slots].sum(axis=1).max()), (self.k - most) // most)
        held = np.zeros(len(rows))
        for node, weight in zip(*_nodes(ties // 2 + 1), strict=True):
            factor = np.where(rivals, (below + node * tie).T ** classes.repeats, 1.0).T
            product = rest * factor[slots[:, 0]]
            for column in range(1, slots.shape[1]):
                product *= factor[slots[:, column]]
            held += weight * (product @ read).real
        return held


@dataclass(frozen=True, kw_only=True)
class _Classes:
    """Wrong answers of profiles with the same number of samples are one class; class 0 is nobody."""

    sizes: Counts  # [C] samples of each answer of the class
    repeats: Counts  # [C] answers of the class
    slots: NDArray[np.intp]  # [P, D] classes of a profile, largest size first, then 0
    largest: Counts  # [P]

    @classmethod
    def of(cls, wrong: Counts, *, num_samples: int) -> _Classes:
        """The classes of profiles [P, W]."""
        profile, _ = np.nonzero(wrong)
        key, repeats = np.unique(
            profile * (num_samples + 1) + (num_samples - wrong[wrong > 0]), return_counts=True
        )
        profile, size = key // (num_samples + 1), num_samples - key % (num_samples + 1)
        kinds, slot = np.unique(size * (num_samples + 1) + repeats, return_inverse=True)
        place = np.arange(len(key)) - np.searchsorted(profile, profile)
        slots = np.zeros((len(wrong), int(place.max(initial=-1)) + 1), dtype=np.intp)
        slots[profile, place] = slot + 1
        return cls(
            sizes=np.concatenate([[0], kinds // (num_samples + 1)]).astype(np.int32),
            repeats=np.concatenate([[0], kinds % (num_samples + 1)]).astype(np.int32),
            slots=slots,
            largest=wrong.max(axis=1, initial=0),
        )


@lru_cache(maxsize=1024)
def _nodes(number: int) -> tuple[_Floats, _Floats]:
    """Gauss-Legendre nodes and weights on [0, 1]: exact for polynomials up to degree 2 number - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(number)
    return (nodes + 1) / 2, weights / 2


@lru_cache(maxsize=256)
def _binomials(num_samples: int, k: int) -> _Floats:
    """Chance of v successes in w trials at ``k / num_samples`` each, [num_samples + 1, num_samples + 1]."""
    share = k / num_samples
    table = np.zeros((num_samples + 1, num_samples + 1))
    table[0, 0] = 1.0
    for trials in range(1, num_samples + 1):
        table[trials] = (1 - share) * table[trials - 1]
        table[trials, 1:] += share * table[trials - 1, :-1]
    return table
