"""Clip-Cov and KL-Cov: tokens on which advantage and log-probability covary most are held back.

Source: Cui et al., arXiv:2505.22617 (``paper`` below) and the authors' code, now in verl (``code``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.slots import (
    TOKEN_LOCAL,
    Guarantee,
    Policy,
    Regularizer,
    Surrogate,
    TokenWeight,
    check_scope,
    on_policy,
)
from tokensweep.loss.tables import Scope, Unit, View, sum_by
from tokensweep.methods.forking_tokens import top_of_segments
from tokensweep.methods.grpo import PPOClip
from tokensweep.registry import component


def covariance(view: View, segments: Tensor) -> Tensor:
    """``(A - mean A) (log pi - mean log pi)`` of each token, [n]; means over the tokens of its segment.

    Tokens of weight 0 do not exist: they are in no mean, and have -inf themselves. Not differentiated. Over
    the others it sums to the size of a segment times its population covariance.
    Source: the paper, its token-wise centred cross-product.
    """
    there = view.weights != 0
    size = int(segments.max()) + 1 if segments.numel() else 0
    count = torch.bincount(segments[there], minlength=size).clamp(min=1)
    product = torch.ones_like(view.advantages)
    for x in (view.advantages, view.logprobs.detach()):
        known = torch.where(there, x, 0.0)
        product = product * (known - (sum_by(known, segments, size=size) / count)[segments])
    return torch.where(there, product, -torch.inf)


def floor_counts(share: float, x: Tensor, segments: Tensor) -> Tensor:
    """``max(1, floor(share * m))`` for the m tokens of each segment whose ``x`` is not -inf, [S] int64."""
    size = int(segments.max()) + 1 if segments.numel() else 0
    sizes = torch.bincount(segments[x > -torch.inf], minlength=size)
    exact = share * sizes.double() + 1e-9  # 0.29 * 100 is a little less than 29 in floats
    return exact.floor().long().clamp(min=1)


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share:g}")


@component("method/token_weights", "clip_cov")
@dataclass(frozen=True)
class ClipCov(TokenWeight):
    """0 for a few tokens drawn at random among those of high covariance, 1 for all others, [n].

    In each segment of ``scope`` with m tokens, ``max(1, floor(share * m))`` tokens (all, where there are
    fewer) among the candidates: ``lowest < cov < highest`` and not clipped by the surrogate.
    Drawn by the column ``uniform``. Not differentiated.
    Source: the paper and the code: share 2e-4, bounds 1 and 5, inside each micro-batch of the current policy
    (``scope=micro``, ``policy=current``; preset ``clip_cov_as_released``). Departure: by default the old
    policy over the whole optimiser batch, exact and once, where no token is clipped yet.
    Raises ValueError for a surrogate that is no PPO clip of the same bounds, and for the current policy in
    a scope other than micro.
    """

    share: float = 2e-4  # r
    lowest: float = 1.0
    highest: float = 5.0
    low: float = 1.0  # the surrogate's clip, which decides what is clipped already
    high: float = 1.0
    scope: Scope = Scope.batch
    policy: Policy = Policy.old

    def __post_init__(self) -> None:
        _check_share(self.share)
        check_scope(self.scope, self.policy)
        if self.lowest >= self.highest:
            raise ValueError(f"lowest must be below highest, got {self.lowest:g} and {self.highest:g}")

    needs: ClassVar[frozenset[str]] = frozenset({"uniform"})

    def __call__(self, view: View) -> Tensor:
        segments = view.segments(self.scope)
        cov = covariance(view, segments)
        clipped = PPOClip(low=self.low, high=self.high).clipped(view, view.log_ratio.detach())
        candidate = (cov > self.lowest) & (cov < self.highest) & ~clipped
        ticket = torch.where(candidate, view.columns["uniform"].double(), -1.0)
        drawn = top_of_segments(ticket, segments, counts=floor_counts(self.share, cov, segments)) & candidate
        return torch.where(drawn, 0.0, 1.0).to(view.advantages.dtype)

    def check(self, method: Method) -> None:
        """What counts as clipped already must be what the surrogate clips."""
        surrogate = method.surrogate
        if not isinstance(surrogate, PPOClip) or (surrogate.low, surrogate.high) != (self.low, self.high):
            raise ValueError(
                f"clip_cov must know the clip of the surrogate, low {self.low:g} and high {self.high:g}, got "
                f"{surrogate}: set low and high of both alike"
            )


@component("method/surrogate", "unclipped")
@dataclass(frozen=True)
class Unclipped(Surrogate):
    """Importance-weighted advantage, [n]: ``r A``.

    Source: the paper, the tokens that KL-Cov leaves alone. Departure: none.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL | {Guarantee.scales_advantage}

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        return log_ratio.exp() * view.advantages

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """None, [n] bool."""
        return torch.zeros_like(log_ratio, dtype=torch.bool)


@component("method/regularizers", "kl_cov")
@dataclass(frozen=True)
class KLCov(Regularizer):
    """``coef |log pi - log pi_old|`` on the tokens of highest covariance, averaged over all tokens, scalar.

    In each segment of ``scope`` with m tokens the ``max(1, floor(share * m))`` of highest covariance pay.
    At ratio 1 penalty and gradient are 0.
    Source: the paper and the code: share 2e-3 for the 7B and 2e-4 for the 32B model, coef 1, in each
    micro-batch of the current policy (``kl_cov_as_released``). Departure: by default the old policy over the
    whole optimiser batch, exact and once.
    Raises ValueError for the current policy in a scope other than micro.
    """

    share: float = 2e-3  # k
    coef: float = 1.0  # beta
    scope: Scope = Scope.batch
    policy: Policy = Policy.old

    def __post_init__(self) -> None:
        _check_share(self.share)
        check_scope(self.scope, self.policy)
        if self.coef < 0:
            raise ValueError(f"coef must be at least 0, got {self.coef:g}")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        """With the old policy, what is held back is fixed before the first update."""
        return TOKEN_LOCAL - {Guarantee.signal_only} if self.policy is Policy.old else frozenset()

    def columns(self, whole: View) -> Mapping[str, Tensor]:
        """The column ``kl_cov``, true on the tokens that pay."""
        return {"kl_cov": self._paying(whole)} if self.policy is Policy.old else {}

    def __call__(self, view: View) -> Tensor:
        paying = view.columns["kl_cov"] if self.policy is Policy.old else self._paying(view)
        return self.coef * view.mean(torch.where(paying, view.log_ratio.abs(), 0.0), Unit.token)

    def _paying(self, view: View) -> Tensor:
        segments = view.segments(self.scope)
        cov = covariance(view, segments)
        top = top_of_segments(cov, segments, counts=floor_counts(self.share, cov, segments))
        return top & (cov > -torch.inf)

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """Everything, as long as every ratio is 1."""
        return on_policy("share", "coef", "scope", updates_per_batch=updates_per_batch)
