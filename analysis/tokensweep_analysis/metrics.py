"""The numbers that a question gets from its samples, and what they are called.

Each is averaged over questions, so one kind of interval serves them all. All are between 0 and 1 but NLL,
which is in nats. Those of :data:`STATED` need samples that state a confidence; see :mod:`certainty` for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import log

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
    weighted_maj_at = "weighted maj@"  # the answer with the most confidence of k is correct
    ece = "ECE"
    brier = "Brier"
    nll = "NLL, 0.01 nat"  # people see a hundred times what is stored, as of shares
    auroc = "AUROC"
    overconfident_errors = "overconfident errors"
    selective_accuracy = "selective accuracy"


# Of stated confidences and grades, written without a k.
CERTAINTY = (
    Kind.ece,
    Kind.brier,
    Kind.nll,
    Kind.auroc,
    Kind.overconfident_errors,
    Kind.selective_accuracy,
)
STATED = frozenset({*CERTAINTY, Kind.weighted_maj_at})
DRAWN = frozenset({Kind.pass_at, Kind.maj_at, Kind.pass_hat, Kind.weighted_maj_at})  # of k samples
# 1.00 stands for anything above 0.995: a stated 1 that is wrong costs 5.3 nats, not infinity.
ROUNDED = 0.005
_LOSSES = frozenset({Kind.ece, Kind.brier, Kind.nll, Kind.overconfident_errors})


@dataclass(frozen=True)
class Metric:
    """A kind with its k, or tau, if it has one: ``pass@8``, ``cover@0.9``, ``ECE``; pass@1 is ``avg@n``."""

    kind: Kind
    at: float = 0.0

    def __str__(self) -> str:
        if self.kind in CERTAINTY:
            return str(self.kind)
        return _AVERAGE_NAME if self == AVERAGE else f"{self.kind}{self.at:g}"

    @property
    def key(self) -> str:
        """The name where ``@`` and ``^`` are not allowed: ``pass_at_8``, ``pass_hat_8``, ``cover_at_0.9``."""
        return self.kind.name if self.kind in CERTAINTY else f"{self.kind.name}_{self.at:g}"

    @property
    def num_drawn(self) -> int:
        """Samples of a question that it takes at the least."""
        return int(self.at) if self.kind in DRAWN else 1

    @property
    def is_loss(self) -> bool:
        """Whether less of it is better."""
        return self.kind in _LOSSES

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest value that it can take."""
        return (0.0, -log(ROUNDED) if self.kind is Kind.nll else 1.0)

    @property
    def difference_limits(self) -> tuple[float, float]:
        """The smallest and the largest difference of two values."""
        return (-self.limits[1], self.limits[1])

    def of(self, votes: Votes) -> float:
        """The number of one question. Raises ValueError for a k above its samples."""
        _refuse_stated([self])
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
    _refuse_stated(metrics)
    scores = by_count(tuple(metrics), table.num_samples)[table.num_correct]
    for place, metric in enumerate(metrics):
        if metric.kind is Kind.maj_at:
            scores[:, place] = majority_at_k(table, int(metric.at))
    return scores


def _refuse_stated(metrics: Iterable[Metric]) -> None:
    """Votes do not say how sure they are."""
    if stated := [str(metric) for metric in metrics if metric.kind in STATED]:
        raise ValueError(f"{', '.join(stated)} must be read off stated confidences, got votes: see certainty")


@lru_cache(maxsize=64)
def by_count(metrics: tuple[Metric, ...], num_samples: int) -> NDArray[np.float64]:
    """The numbers by how many samples are correct, [num_samples + 1, M]; not to be written.

    For maj@k and what is read off stated confidences, which depend on more, it has NaN. Raises ValueError
    for a k above the samples.
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


def stated_metrics_of(ks: Iterable[int]) -> list[Metric]:
    """What can be read off stated confidences: the weighted maj@k of every k above 1, then calibration."""
    several = [k for k in sorted(set(ks)) if k > 1]
    return [*(Metric(Kind.weighted_maj_at, k) for k in several), *(Metric(kind) for kind in CERTAINTY)]
