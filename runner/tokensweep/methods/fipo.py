"""FIPO: a token counts for more where the update is making what follows it more likely.

Source: Ma et al., arXiv:2603.19835 v1 (``paper`` below) and the code of ms-swift, which names the released
defaults (``code``); the authors' own code was not at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import ROLLOUT_LOCAL, AdvantageShaper, Guarantee, Policy, on_policy
from tokensweep.loss.tables import View, mean_over
from tokensweep.registry import component

_SAFE_LOW = 0.8  # the code's bound, whatever the reach


@component("method/advantage_shapers", "future_kl")
@dataclass(frozen=True)
class FutureKLAdvantage(AdvantageShaper):
    """Advantages times the influence of each token on its future, [n]: ``f_t A``.

    ``F_t = sum_{k >= t} gamma^(k - t) M_k (log pi_k - log pi_old,k)`` over the rest of the rollout with
    ``gamma = 2^(-1 / half_life)``, and ``f = clip(exp F, 1 - reach, 1 + reach)``, from 1 up if
    ``upward_only``. ``M`` leaves out tokens whose ratio is above ``outlier``, and those of weight 0. Where
    A < 0 and the ratio is above ``safety``, f is held within [0.8, 1]. Not differentiated. f is 1 at ratio 1,
    and for ``reach`` 0 throughout: the base method.
    Source: the paper; half-life 32, reach 0.2, upward only, safety 4 and outlier 10 as released with the 32B
    script. The paper's formula clips both ways: ``upward_only=false``. Departure: the log ratio is held
    within ±20 nats. One implementation also drops rollouts with two or more tokens beyond the dual clip.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = ROLLOUT_LOCAL
    policy: ClassVar[Policy] = Policy.current

    half_life: float = 32.0  # tokens, decay_rate
    reach: float = 0.2  # epsilon_f
    upward_only: bool = True
    safety: float | None = 4.0  # a ratio; None: none
    outlier: float | None = 10.0  # delta, a ratio; None: none

    def __post_init__(self) -> None:
        if self.half_life <= 0 or not 0 <= self.reach < 1:
            raise ValueError(
                "half_life must be above 0 tokens and reach in [0, 1), got "
                f"{self.half_life:g} and {self.reach:g}"
            )
        for name, bound in (("safety", self.safety), ("outlier", self.outlier)):
            if bound is not None and bound < 1:
                raise ValueError(f"{name} must be at least 1, the ratio without any change, got {bound:g}")

    def __call__(self, view: View) -> Tensor:
        return self.influence(view) * view.advantages

    def influence(self, view: View) -> Tensor:
        """``f`` of each token, [n]."""
        lowest = 1.0 if self.upward_only else 1 - self.reach
        weight = self.future_kl(view).exp().clamp(lowest, 1 + self.reach).to(view.advantages.dtype)
        if self.safety is None:
            return weight
        unsafe = (view.advantages < 0) & (view.log_ratio.exp() > self.safety)
        return torch.where(unsafe, weight.clamp(_SAFE_LOW, 1.0), weight)

    def future_kl(self, view: View) -> Tensor:
        """``F`` of each token, [n] nats, float64."""
        there = view.weights != 0
        if self.outlier is not None:
            there = there & (view.log_ratio <= math.log(self.outlier))
        shift = torch.where(there, view.log_ratio, 0.0).double()
        return discounted_to_go(shift, view, discount=2 ** (-1 / self.half_life))

    def metrics(self, view: View, log_ratio: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Mean influence of tokens with A > 0 and with A < 0, mean F in nats, share at the upper bound."""
        weight, good = self.influence(view), view.advantages > 0
        at_bound = (weight >= 1 + self.reach).to(weight.dtype)
        return {
            "influence_positive": mean_over(view.signal & good, weight),
            "influence_negative": mean_over(view.signal & ~good, weight),
            "future_kl": mean_over(view.signal, self.future_kl(view)),
            "at_upper_bound": mean_over(view.signal, at_bound),
        }

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """All of it, as long as every ratio is 1."""
        names = ("half_life", "reach", "upward_only", "safety", "outlier")
        return on_policy(*names, updates_per_batch=updates_per_batch)


def discounted_to_go(x: Tensor, view: View, *, discount: float) -> Tensor:
    """``sum_{k >= t} discount^(k - t) x_k`` over the rest of each token's rollout, [n].

    Distances are those of positions in the rollout, so a token that is not in the table counts as 0. Each
    round makes the sum over the next s tokens one over 2 s: as many rounds as the longest rollout has bits.
    """
    total, step = x, 1
    longest = int(torch.bincount(view.rollout_of).max()) if x.numel() else 0
    while step < longest:
        same = view.rollout_of[step:] == view.rollout_of[:-step]
        gap = (view.completion_position[step:] - view.completion_position[:-step]).clamp(min=0)
        later = torch.where(same, discount ** gap.to(x.dtype) * total[step:], 0.0)
        total = torch.cat([total[:-step] + later, total[-step:]])
        step *= 2
    return total
