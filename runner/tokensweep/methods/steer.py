"""STEER: tokens whose update is predicted to change the entropy most weigh a little less.

Source: Hao et al., arXiv:2510.10150 (``paper`` below, read in excerpts) and the authors' code, a fork of verl
(``code``), which decided the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from tokensweep.loss.slots import Guarantee, Policy, TokenWeight, check_scope
from tokensweep.loss.tables import Scope, View, mean_over
from tokensweep.registry import component

_TINY = 1e-8  # the code's bound of probabilities


class Shape(StrEnum):
    """How a predicted change becomes a weight."""

    exponential = "exponential"  # exp(-k |change|): from 1 down to lowest
    linear = "linear"  # from highest for the smallest change down to lowest for the largest


def entropy_loss(view: View) -> Tensor:
    """``A / pi_old p (1 - p) (log p + H)`` of each token, [n]: the entropy it is predicted to cost.

    To first order a policy-gradient step on a token lowers the entropy of its own distribution by this, up to
    the learning rate: it does where a token more likely than usual is pushed up, or an unlikely one down.
    p and H are those of the policy that ``view`` looks at. Written as ``A r (1 - p) (log p + H)``; not
    differentiated.
    Source: the code, Omega, with its bound of 1e-8 for p. Departure: the ratio is held within ±20 nats.
    """
    logprobs = view.logprobs.detach().clamp(math.log(_TINY), 0.0)
    ratio = view.log_ratio.detach().exp()
    return view.advantages * ratio * (1 - logprobs.exp()) * (logprobs + view.entropy.detach())


@component("method/token_weights", "entropy_change")
@dataclass(frozen=True)
class EntropyChangeWeight(TokenWeight):
    """A weight that falls with the size of the predicted change of entropy ``x = |Omega|``, [n].

    exponential: ``max(lowest, exp(-k x))`` with ``k = -ln(lowest) / max(max x, floor)``, so the token of the
    largest change gets ``lowest`` as soon as that is above ``floor``. linear: from ``highest`` for the
    smallest to ``lowest`` for the largest x, the mean of both where all are alike. Largest and smallest of
    each segment of ``scope``, over the tokens that exist. Not differentiated; exponential and lowest 1 is the
    base method.

    Source: the code: lowest 0.8, highest 1.2 and floor 0.02, in each micro-batch of the current policy
    (``scope=micro``, ``policy=current``; preset ``steer_as_released``), divided by all tokens
    (``token_mean``). Departure: by default the old policy over the whole optimiser batch, exact and once: the
    prediction is of first order around the policy that is updated, which the first of the updates leaves
    from; with one micro-batch both are the same there.
    Raises ValueError for the current policy in a scope other than micro.
    """

    shape: Shape = Shape.exponential
    lowest: float = 0.8  # w_min
    highest: float = 1.2  # w_max, of linear only
    floor: float = 0.02  # of exponential only
    shuffled: bool = False  # the same weights, handed out at random within each segment: a control
    scope: Scope = Scope.batch
    policy: Policy = Policy.old

    def __post_init__(self) -> None:
        if not 0 < self.lowest <= 1 or self.highest < 1 or self.floor <= 0:
            raise ValueError(
                "lowest must be in (0, 1], highest at least 1 and floor above 0, got "
                f"{self.lowest:g}, {self.highest:g} and {self.floor:g}"
            )
        check_scope(self.scope, self.policy)

    @property
    def needs(self) -> frozenset[str]:
        """The entropy in its formula, and the random numbers that shuffle."""
        entropy = "entropy" if self.policy is Policy.current else "old_entropy"
        return frozenset({entropy, "uniform"} if self.shuffled else {entropy})

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        """A weight makes no gradient; the largest change is that of the whole segment."""
        return frozenset({Guarantee.signal_only})

    def __call__(self, view: View) -> Tensor:
        there = view.weights != 0
        segments = view.segments(self.scope)
        weights = self._weights(torch.where(there, entropy_loss(view).abs(), 0.0), segments, there)
        if not self.shuffled:
            return weights
        rows = there.nonzero().squeeze(1)
        dealt = weights.clone()
        dealt[rows[order_in_segments(view.columns["uniform"][rows], segments[rows])]] = weights[
            rows[order_in_segments(weights[rows], segments[rows])]
        ]
        return dealt

    def _weights(self, change: Tensor, segments: Tensor, there: Tensor) -> Tensor:
        """The weights that the changes of the tokens that are ``there`` give, [n]."""
        largest = _extreme(change, segments, there, "amax")
        if self.shape is Shape.exponential:
            rate = -math.log(self.lowest) / largest.clamp(min=self.floor)
            return (-rate * change).exp().clamp(self.lowest, 1.0)
        smallest = _extreme(change, segments, there, "amin")
        spread = largest - smallest
        place = torch.where(spread > 0, (change - smallest) / torch.where(spread > 0, spread, 1.0), 0.5)
        return (self.highest - place * (self.highest - self.lowest)).clamp(self.lowest, self.highest)

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """Mean and smallest weight, mean predicted loss of entropy and the size of the largest one."""
        if self.policy is Policy.current:
            return {}
        change, weights = entropy_loss(whole), self(whole)
        return {
            "weight": float(weights.mean()),
            "smallest_weight": float(weights.min()),
            "predicted_loss": float(change.mean()),
            "largest_change": float(change.abs().max()),
        }

    def metrics(self, view: View, log_ratio: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Mean weight and mean predicted loss of entropy of a micro-batch."""
        if self.policy is Policy.old:
            return {}
        there = view.weights != 0
        return {
            "weight": mean_over(there, self(view)),
            "predicted_loss": mean_over(there, entropy_loss(view)),
        }

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """The bound of the other shape."""
        if self.shape is Shape.exponential:
            return {"highest": "weights of the exponential shape end at 1; set shape=linear"}
        return {"floor": "the linear shape scales by the changes themselves; set shape=exponential"}


def _extreme(x: Tensor, segments: Tensor, there: Tensor, which: str) -> Tensor:
    """Largest (``amax``) or smallest of ``x`` over the tokens ``there`` in each one's segment, [n]."""
    size = int(segments.max()) + 1 if segments.numel() else 0
    found = x.new_zeros(size).scatter_reduce(0, segments[there], x[there], which, include_self=False)
    return found[segments]


def order_in_segments(x: Tensor, segments: Tensor) -> Tensor:
    """Rows by segment, and in each by ``x`` [n], as [n] int64."""
    by_value = x.argsort(stable=True)
    return by_value[segments[by_value].argsort(stable=True)]
