"""HORA: more rollouts for the prompts where another one is most likely to be the first that is right.

Source: Wang et al., arXiv:2605.07114 v1 (``paper`` below). We had its abstract, its table of contents and two
readings of it by others, no code of the authors: what those leave open is a field here, or said below.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import islice

from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.outcomes import Outcomes
from tokensweep.loss.slots import Allocation
from tokensweep.registry import component


class Offset(StrEnum):
    """Rollouts that a prompt had before the first extra one, as the gain of another one counts them."""

    zero = "zero"  # none: the extra rollouts alone must hit
    probes = "probes"  # the probes too: what they have hit is no gain any more


@component("method/allocation", "hora")
@dataclass(frozen=True)
class HitUtilityAllocation(Allocation):
    """``g0`` probes of every prompt, then the rest of the rollouts one by one to the largest gain.

    After c right probes the success rate has the posterior Beta(prior_alpha + c, prior_beta + g0 - c). The
    utility of g extra rollouts is the probability ``U(g) = 1 - E[(1 - p)^g]`` that one of them is right, so
    the next one gains ``E[p (1 - p)^g]``; as gains fall, giving each rollout to the largest one maximises the
    sum of the utilities. A step has ``prompts * group_size`` rollouts in all, as under uniform allocation,
    all of one policy, and trains every group with its probes. Ties go to the prompt drawn first, exactly:
    gains are fractions.
    Source: the paper's abstract (utility, uniform prior) and readings of it (probes, posterior, greedy,
    pooled groups). Choices of ours: ``g0`` is that of a reimplementation by others, the paper's was not
    found; probes are trained, as both readings have it; a step is the allocation batch; a grade counts as
    right from ``threshold`` on. ``exponent_offset`` zero is the paper's, ``probes`` a suggestion of others;
    ``smallest`` and ``largest`` bound the size of a group and are not the paper's. Since sizes fall with c,
    the mean reward of the rollouts trained is not that of the policy: see ``token_weights/equal_prompts``.
    """

    g0: int = 4
    prior_alpha: float = 1.0
    prior_beta: float = 1.0
    exponent_offset: Offset = Offset.zero
    smallest: int | None = None  # rollouts of a group, probes included; null: no bound
    largest: int | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.g0 < 1:
            raise ValueError(
                f"g0 must be at least 1, got {self.g0}: without probes there is nothing to go by"
            )
        for name, value in (("prior_alpha", self.prior_alpha), ("prior_beta", self.prior_beta)):
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value:g}")

    def check(self, method: Method) -> None:
        """A group that the advantage can learn nothing from would be sampled for nothing."""
        least, needed = max(self.g0, self.smallest or 0), method.advantage.smallest_group
        if least < needed:
            raise ValueError(
                f"groups must have at least {needed} rollouts for the advantage "
                f"{type(method.advantage).__name__}, but some would have {least}: raise g0 or smallest"
            )

    def check_group_size(self, size: int) -> None:
        """The mean size must leave room for the probes, and lie between the bounds."""
        low = max(self.g0, self.smallest or 0)
        if size < low or (self.largest is not None and size > self.largest):
            high = "" if self.largest is None else f" and at most {self.largest}"
            raise ValueError(
                f"batch.group_size, the mean size of a group under method/allocation=hora, must be at least "
                f"{low}{high}, got {size}: change it, or method.allocation.g0, smallest or largest"
            )

    def wanted(self, outcomes: Outcomes) -> Sequence[int]:
        """The probes, then everything else at once."""
        if outcomes.round == 0:
            return [self.g0] * outcomes.num_prompts
        if outcomes.round > 1:
            return ()
        return self.allocated(self._right(outcomes.grades), group_size=outcomes.group_size)

    def keep(self, accuracy: Tensor) -> bool:
        """Always true."""
        return True

    def allocated(self, right: Sequence[int], *, group_size: int) -> list[int]:
        """Extra rollouts of prompts with so many right probes each, ``group_size - g0`` on average."""
        return greedy(
            [self.gains(count) for count in right],
            budget=len(right) * (group_size - self.g0),
            least=max(0, (self.smallest or 0) - self.g0),
            most=None if self.largest is None else self.largest - self.g0,
        )

    def gains(self, right: int) -> Iterator[Fraction]:
        """Gain of the first extra rollout, the second and so on, after so many right probes."""
        alpha, beta = self._posterior(right)
        before = self.g0 if self.exponent_offset is Offset.probes else 0
        return islice(_marginals(alpha, beta), before, None)

    def utility(self, right: int, extra: int) -> float:
        """Probability that one of ``extra`` rollouts is right, after so many right probes."""
        alpha, beta = map(float, self._posterior(right))  # fractions would grow too long to add
        return 1 - math.prod((beta + j) / (alpha + beta + j) for j in range(extra))

    def sampling_metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """Mean size of the groups by right probes, and how many prompts were hit, with what was expected.

        ``hits`` is the share of prompts with a right rollout among the extra ones, ``expected_hits`` its
        expectation before they were drawn, ``uniform_hits`` the same had all prompts got equally many;
        ``rescued`` is the share of hits among prompts without a right probe, if there are any.
        """
        right = self._right(outcomes.grades)
        sizes = [grades.numel() for grades in outcomes.grades]
        hits = [bool((grades[self.g0 :] >= self.threshold).any()) for grades in outcomes.grades]
        mean = outcomes.group_size - self.g0
        values = {
            "hits": _mean(hits),
            "expected_hits": _mean([self.utility(c, g - self.g0) for c, g in zip(right, sizes, strict=True)]),
            "uniform_hits": _mean([self.utility(c, mean) for c in right]),
        }
        for count in sorted(set(right)):
            values[f"size_after_{count}"] = _mean(
                [g for c, g in zip(right, sizes, strict=True) if c == count]
            )
        if 0 in right:
            values["rescued"] = _mean([hit for c, hit in zip(right, hits, strict=True) if c == 0])
        return values

    def _right(self, grades: Sequence[Tensor]) -> list[int]:
        """Right ones among the probes, which came first."""
        return [int((each[: self.g0] >= self.threshold).sum()) for each in grades]

    def _posterior(self, right: int) -> tuple[Fraction, Fraction]:
        return Fraction(self.prior_alpha) + right, Fraction(self.prior_beta) + self.g0 - right


def _marginals(alpha: Fraction, beta: Fraction) -> Iterator[Fraction]:
    """``E[p (1 - p)^g]`` under Beta(alpha, beta) for g = 0, 1, 2 and so on."""
    gain, number = alpha / (alpha + beta), 0
    while True:
        yield gain
        gain *= (beta + number) / (alpha + beta + number + 1)
        number += 1


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def greedy(
    gains: Sequence[Iterator[Fraction]], *, budget: int, least: int = 0, most: int | None = None
) -> list[int]:
    """How often each iterator is drawn from when ``budget`` draws go, one by one, to the largest next value.

    Every one is drawn from at least ``least`` and at most ``most`` times; ties go to the first. With values
    that never rise, no other division of the budget gives a larger sum.
    """
    given = [least] * len(gains)
    heap: list[tuple[Fraction, int]] = []
    for index, each in enumerate(gains):
        if most is None or least < most:
            heap.append((-next(islice(each, least, None)), index))
    heapq.heapify(heap)
    for _ in range(budget - least * len(gains)):
        _, index = heap[0]
        given[index] += 1
        if most is not None and given[index] == most:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (-next(gains[index]), index))
    return given
