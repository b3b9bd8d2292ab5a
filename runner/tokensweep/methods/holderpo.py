"""Hölder policy optimisation: token ratios become one ratio per rollout by a power mean of order p.

Source: Chen, Liang, Chen et al., arXiv:2605.12058 v2 (``paper`` below) and the authors' code (``code``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.slots import ROLLOUT_LOCAL, Aggregate, Guarantee, Ratio, on_policy
from tokensweep.loss.tables import View, sum_by
from tokensweep.registry import component

_MAX_P = 16.0  # exp(p * 40 nats) stays finite in float64


def log_power_mean(log_x: Tensor, *, weights: Tensor, segments: Tensor, size: int, p: float) -> Tensor:
    """Log of the weighted power mean of order ``p`` of ``exp(log_x)`` in each segment, [size] float64.

    ``log( (sum_t w_t x_t^p / sum_t w_t)^(1/p) )``, for p = 0 its limit, the weighted mean of ``log_x``.
    ``log_x`` and ``weights`` (at least 0) are [n]; a segment without weight gives 0. Written around the
    weighted mean ``mu`` of ``log_x`` as ``mu + log1p(mean expm1(p (log_x - mu))) / p``: by Jensen the
    argument of log1p is never negative, so no digits cancel, however small p is.
    """
    log_x, weights = log_x.double(), weights.double()
    total = sum_by(weights, segments, size=size)
    share = weights / torch.where(total > 0, total, 1.0)[segments]
    mean = sum_by(share * log_x, segments, size=size)
    if p == 0:
        return mean
    centre = mean.detach()
    excess = sum_by(share * torch.expm1(p * (log_x - centre[segments])), segments, size=size)
    return centre + torch.log1p(excess) / p


def _check_p(p: float) -> None:
    if abs(p) > _MAX_P:
        raise ValueError(f"p must lie within ±{_MAX_P:g} to stay finite, got {p:g}")


@component("method/ratio", "holder")
@dataclass(frozen=True)
class HolderRatio(Ratio):
    """Log of the power mean of a rollout's token ratios, the same for all its tokens, [n] nats.

    ``rho_i = ( 1/|o_i| sum_t r_t^p )^(1/p)``: p = 1 arithmetic, 0 geometric (GSPO's ratio), -1 harmonic
    mean. The token t receives the share ``r_t^p / sum_s r_s^p`` of the rollout's gradient. On-policy
    every p gives GRPO's gradient.
    Source: the paper, the Hölder importance ratio with sequence clip. Departures: computed in log space, as
    the paper prescribes and the code does not; with token weights it is the weighted power mean, so a token
    of weight 0 has no part in it, and on-policy each token's gradient is still its weight's share.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = ROLLOUT_LOCAL

    p: float = 3.0  # the paper's best constant on AIME24; its average ties with p -> 0

    def __post_init__(self) -> None:
        _check_p(self.p)

    def __call__(self, view: View) -> Tensor:
        mean = log_power_mean(
            view.log_ratio, weights=view.weights, segments=view.rollout_of, size=view.num_rollouts, p=self.p
        )
        return mean[view.rollout_of].to(view.logprobs.dtype)

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """The order, as long as every ratio is 1."""
        return on_policy("p", updates_per_batch=updates_per_batch)


@component("method/aggregate", "holder_token")
@dataclass(frozen=True)
class HolderTokenMean(Aggregate):
    """Mean over rollouts of the power mean of their clipped token ratios, times the advantage.

    ``1/R sum_i A_i M_p(c_t)`` with ``c_t = x_t / A_t`` the ratio after the surrogate's clip: the smaller of
    ratio and clipped ratio for A > 0, the larger for A < 0. p = 1 is GRPO's objective exactly.
    Source: the paper, appendix D. Departure: where advantages or weights differ within a rollout, the power
    mean is weighted by ``w_t |A_t|`` for each sign of A by itself and multiplied by ``sum_t w_t A_t / |o_i|``
    of that sign; this is the paper's form for one A per rollout, and p = 1 stays GRPO for any.
    Raises ValueError for a surrogate that is not an advantage times a positive ratio.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = ROLLOUT_LOCAL

    p: float = 2.0  # of the paper's table, -2 to 2; no order is preferred there

    def __post_init__(self) -> None:
        _check_p(self.p)

    def __call__(self, view: View, objective: Tensor) -> Tensor:
        strength = view.weights * view.advantages
        some = strength != 0
        ratio = torch.where(some, objective, 1.0) / torch.where(some, view.advantages, 1.0)
        cell = 2 * view.rollout_of + (strength < 0)  # the two signs of each rollout
        size = 2 * view.num_rollouts
        mean = log_power_mean(ratio.log(), weights=strength.abs(), segments=cell, size=size, p=self.p)
        signed = sum_by(strength.double(), cell, size=size) * mean.exp()
        lengths = view.lengths.clamp(min=1).repeat_interleave(2)
        return (signed / lengths).sum().to(objective.dtype) / view.totals.rollouts

    def check(self, method: Method) -> None:
        """The clipped ratio is read off the surrogate's value."""
        if Guarantee.scales_advantage not in method.surrogate.guarantees:
            raise ValueError(
                "holder_token must find advantage times ratio in the surrogate, "
                f"got {type(method.surrogate).__name__}: take method/surrogate=ppo_clip"
            )

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """The order, as long as every ratio is 1."""
        return on_policy("p", updates_per_batch=updates_per_batch)
