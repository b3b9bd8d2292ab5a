"""Forking tokens (the 80/20 rule): the loss is taken over the tokens of highest entropy only.

Source: Wang et al., arXiv:2506.01939 v2 (``paper`` below) and the authors' code, a fork of verl (``code``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.slots import TOKEN_LOCAL, Aggregate, Guarantee, Policy, TokenWeight, check_scope
from tokensweep.loss.tables import Scope, View
from tokensweep.registry import component


class Side(StrEnum):
    """Which tokens stay."""

    high = "high"  # the top share by entropy
    low = "low"  # all others
    random = "random"  # as many as high would keep, whatever their entropy


@component("method/token_weights", "entropy")
@dataclass(frozen=True)
class EntropyWeight(TokenWeight):
    """1 for the tokens that stay and 0 for the others, [n].

    In each segment of ``scope`` with m tokens the k of highest entropy are the top:
    ``k = max(1, ceil(fraction * m))`` exactly, ties to the earlier token; with ``threshold`` the tokens of
    at least that many nats instead. ``side`` high keeps the top, low the complement, random a random set of
    the top's size (by the column ``uniform``, the control that the paper lacks). Not differentiated.

    Source: the paper, equation 6, and the code's top-k. Departures: by default the old policy's entropy over
    the whole optimiser batch, exact and once, where paper and code select in each micro-batch of each rank
    by the current policy (``scope=micro``, ``policy=current``; preset ``forking_tokens_as_released``).
    ``threshold`` is a fixed cut; the paper uses one only when decoding (0.672 nats).
    Raises ValueError for the current policy in a scope other than micro.
    """

    fraction: float = 0.2  # rho
    threshold: float | None = None  # nats; replaces fraction
    side: Side = Side.high
    scope: Scope = Scope.batch
    policy: Policy = Policy.old

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction:g}")
        if self.threshold is not None and self.threshold < 0:
            raise ValueError(f"threshold must be at least 0 nats, got {self.threshold:g}")
        if self.side is Side.low and self.fraction == 1 and self.threshold is None:
            raise ValueError(
                "side low must leave tokens to train, but fraction 1 leaves none: lower the fraction"
            )
        check_scope(self.scope, self.policy)

    @property
    def needs(self) -> frozenset[str]:
        """The entropy it ranks, and the random numbers of side random."""
        if self.side is Side.random and self.threshold is None:
            return frozenset({"uniform"})
        entropy = "entropy" if self.policy is Policy.current else "old_entropy"
        return frozenset({entropy, "uniform"} if self.side is Side.random else {entropy})

    def __call__(self, view: View) -> Tensor:
        segments = view.segments(self.scope)
        if self.side is Side.random:
            keep = top_of_segments(view.columns["uniform"], segments, counts=self._counts(view, segments))
        elif self.threshold is not None:
            keep = view.entropy >= self.threshold
        else:
            keep = top_of_segments(view.entropy, segments, counts=self._counts(view, segments))
        return (~keep if self.side is Side.low else keep).to(view.advantages.dtype)

    def _counts(self, view: View, segments: Tensor) -> Tensor:
        """Size of the top in each segment, [S] int64."""
        if self.threshold is not None:
            return torch.bincount(segments[view.entropy >= self.threshold], minlength=_num(segments))
        sizes = torch.bincount(segments, minlength=_num(segments))
        exact = self.fraction * sizes.double() - 1e-9  # 0.07 * 100 is a little more than 7 in floats
        return exact.ceil().long().clamp(min=1)

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """The fraction under a threshold; the scope of a threshold, which looks at one token at a time."""
        if self.threshold is None:
            return {}
        reasons = {"fraction": "the threshold replaces it; set token_weights' threshold to null"}
        if self.side is not Side.random:
            reasons["scope"] = "a threshold is compared with each token by itself"
        return reasons


def _num(segments: Tensor) -> int:
    return int(segments.max()) + 1 if segments.numel() else 0


def top_of_segments(x: Tensor, segments: Tensor, *, counts: Tensor) -> Tensor:
    """The ``counts`` [S] largest of ``x`` [n] in each segment, as [n] bool; ties go to the earlier row."""
    by_value = x.argsort(descending=True, stable=True)
    order = by_value[segments[by_value].argsort(stable=True)]
    sizes = torch.bincount(segments, minlength=counts.numel())
    first = sizes.cumsum(0) - sizes
    rank = torch.arange(x.numel(), device=x.device) - first[segments[order]]
    keep = torch.empty_like(x, dtype=torch.bool)
    keep[order] = rank < counts[segments[order]]
    return keep


class RankBy(StrEnum):
    """What the tokens of a rollout are ranked by."""

    entropy = "entropy"
    random = "random"  # the column uniform: sets of the same size, whatever the entropy


def ranking(view: View, *, by: RankBy, policy: Policy) -> Tensor:
    """What the tokens are ranked by, [n]: the entropy of ``policy`` in nats, or a random number."""
    if by is RankBy.random:
        return view.columns["uniform"]
    return view.entropy if policy is Policy.current else view.columns["old_entropy"]


def ranking_needs(by: RankBy, policy: Policy) -> frozenset[str]:
    """The columns that :func:`ranking` reads, for ``Part.needs``."""
    if by is RankBy.random:
        return frozenset({"uniform"})
    return frozenset({"entropy" if policy is Policy.current else "old_entropy"})


def by_segment(x: Tensor, segments: Tensor) -> Tensor:
    """Rows [n] int64 segment by segment, those of each one by rising ``x``; ties in their order."""
    order = x.argsort(stable=True)
    return order[segments[order].argsort(stable=True)]


def above_quantile(x: Tensor, segments: Tensor, *, quantile: float) -> Tensor:
    """The tokens above the ``quantile`` of their segment, interpolated linearly, [n] bool.

    Tokens of -inf do not exist. Ties at the quantile are not above it.
    """
    if x.numel() == 0:
        return torch.zeros_like(x, dtype=torch.bool)
    there = x > -torch.inf
    total = torch.bincount(segments)
    size = torch.bincount(segments[there], minlength=total.numel())
    first = total.cumsum(0) - size  # those that do not exist come first
    exact = quantile * (size - 1).clamp(min=0).double()
    below = (exact + 1e-9).floor()  # 0.7 * 10 may be a little less than 7 in floats
    value = x[by_segment(x, segments)]
    low, high = (value[(first + k.long()).clamp(max=x.numel() - 1)] for k in (below, (exact - 1e-9).ceil()))
    bound = torch.where(high > low, low + (exact - below).clamp(min=0).to(x.dtype) * (high - low), low)
    return there & (x > bound[segments])


@component("method/aggregate", "selected_mean")
@dataclass(frozen=True)
class SelectedMean(Aggregate):
    """Mean over the selected tokens of the mini-batch: ``sum_t w_t x_t / sum_t w_t``.

    With a share rho selected, the loss is 1/rho times the token mean; gradient clipping sees that.
    Source: the paper, equation 6. Departure: the sum of weights is that of the mini-batch, which makes the
    result independent of the micro-batch size. TRL divides by all tokens: ``aggregate=token_mean``.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    def __call__(self, view: View, objective: Tensor) -> Tensor:
        total = view.totals.weight
        return (view.weights * objective).sum() / (total if total > 0 else 1.0)

    def check(self, method: Method) -> None:
        """Weights that the current policy decides are not known for the whole mini-batch."""
        if method.token_weights_of(Policy.current):
            raise ValueError(
                "selected_mean must know the weights of the whole mini-batch, but a token weight reads the "
                "current policy: take method/aggregate=selected_mean_micro, or policy=old"
            )


@component("method/aggregate", "selected_mean_micro")
@dataclass(frozen=True)
class SelectedMeanMicro(Aggregate):
    """Mean over the micro-batches of the mean over the selected tokens of each.

    ``1/B sum_b (sum_{t in b} w_t x_t / sum_{t in b} w_t)`` with B micro-batches in the mini-batch. Depends
    on the micro-batch size: a token in a short micro-batch weighs more.
    Source: the code (gradient accumulation divides by the number of micro-batches). Departure: none.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = frozenset({Guarantee.signal_only})

    def __call__(self, view: View, objective: Tensor) -> Tensor:
        total = view.weights.sum()
        mean = (view.weights * objective).sum() / torch.where(total > 0, total, 1.0)
        return mean / view.totals.micro_batches
