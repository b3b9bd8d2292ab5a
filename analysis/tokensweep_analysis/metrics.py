"""The numbers that a question gets from its samples, and what they are called.

Each is between 0 and 1 and is averaged over questions, so one kind of interval serves them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tokensweep_analysis.majority import Votes, VoteTable, maj_at_k, majority_at_k
from tokensweep_analysis.passk import (
    cover_at,
    cover_column,
    pass_at_k,
    pass_hat_k,
    pass_hat_table,
    pass_table,
)


class Kind(StrEnum):
    """What is asked of the samples; the value is how it is written before its k or tau."""

    pass_at = "pass@"  # one of k is correct
    maj_at = "maj@"  # the majority of k is correct
    pass_hat = "pass^"  # all of k are correct
    cover_at = "cover@"  # the share tau of all samples is correct


@dataclass(frozen=True)
class Metric:
    """A kind with its k, or its tau: ``pass@8``, ``cover@0.9``; pass@1 is written ``avg@n``."""

    kind: Kind
    at: float

    def __str__(self) -> str:
        return _AVERAGE_NAME if self == AVERAGE else f"{self.kind}{self.at:g}"

    @property
    def key(self) -> str:
        """The name where ``@`` and ``^`` are not allowed: ``pass_at_8``, ``pass_hat_8``, ``cover_at_0.9``."""
        return f"{self.kind.name}_{self.at:g}"

    def of(self, votes: Votes) -> float:
        """The number of one question. Raises ValueError for a k above its samples."""
        if self.kind is Kind.maj_at:
            return maj_at_k(votes, int(self.at))
        if self.kind is Kind.cover_at:
            return cover_at(votes.num_samples, votes.num_correct, self.at)
        formula = pass_at_k if self.kind is Kind.pass_at else pass_hat_k
        return formula(votes.num_samples, votes.num_correct, int(self.at))

    def each(self, table: VoteTable) -> NDArray[np.float64]:
        """The number of every question of a table, [Q]. Raises ValueError for a k above their samples."""
        return scores_of([self], table)[:, 0]

    def mean(self, questions: Iterable[Votes]) -> float:
        """The mean over questions. Raises ValueError for none."""
        groups: dict[int, list[Votes]] = {}
        for votes in questions:
            groups.setdefault(votes.num_samples, []).append(votes)
        if not groups:
            raise ValueError(f"{self} needs at least one question, got none")
        return float(np.concatenate([self.each(VoteTable.of(group)) for group in groups.values()]).mean())


AVERAGE = Metric(Kind.pass_at, 1)  # the share of correct samples
_AVERAGE_NAME = "avg@n"  # to people; programs know it by its key, pass_at_1


def doubling(most: int) -> list[Metric]:
    """pass@k at k = 1, 2, 4, ... and ``most``: the points of a curve that has a band."""
    return [Metric(Kind.pass_at, k) for k in sorted({*(2**i for i in range(most.bit_length())), most})]


def scores_of(metrics: Sequence[Metric], table: VoteTable) -> NDArray[np.float64]:
    """The numbers of all questions, [Q, M]. Raises ValueError for a k above their samples."""
    scores = by_count(tuple(metrics), table.num_samples)[table.num_correct]
    for place, metric in enumerate(metrics):
        if metric.kind is Kind.maj_at:
            scores[:, place] = majority_at_k(table, int(metric.at))
    return scores


@lru_cache(maxsize=64)
def by_count(metrics: tuple[Metric, ...], num_samples: int) -> NDArray[np.float64]:
    """The numbers by how many samples are correct, [num_samples + 1, M]; not to be written.

    All but maj@k depend on nothing else; for that it has NaN. Raises ValueError for a k above the samples.
    """
    table = np.full((num_samples + 1, len(metrics)), np.nan)
    for kind in (Kind.pass_at, Kind.pass_hat, Kind.cover_at):
        places = [place for place, metric in enumerate(metrics) if metric.kind is kind]
        if places:
            table[:, places] = _columns(kind, [metrics[place].at for place in places], num_samples)
    table.setflags(write=False)
    return table


def _columns(kind: Kind, ats: Sequence[float], num_samples: int) -> NDArray[np.float64]:
    if kind is Kind.cover_at:
        return np.column_stack([cover_column(num_samples, tau) for tau in ats])
    table = pass_table if kind is Kind.pass_at else pass_hat_table
    return table(num_samples, [int(k) for k in ats])


def metrics_of(ks: Iterable[int], taus: Iterable[float]) -> list[Metric]:
    """pass@k of every k, pass^k and maj@k of those above 1, cover@tau of every tau; in this order.

    At k = 1 all three are the mean accuracy, which is said once.
    """
    ordered = sorted(set(ks))
    several = [k for k in ordered if k > 1]
    return [
        *(Metric(Kind.pass_at, k) for k in ordered),
        *(Metric(kind, k) for kind in (Kind.maj_at, Kind.pass_hat) for k in several),
        *(Metric(Kind.cover_at, tau) for tau in sorted(set(taus))),
    ]
