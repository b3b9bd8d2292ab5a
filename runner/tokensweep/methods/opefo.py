"""OPEFO: tokens that would lower entropy and tokens that would raise it are weighted into balance.

Source: Xu et al., arXiv:2605.11491 v1 (``paper`` below), known from two detailed notes; no code is out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.slots import TokenWeight
from tokensweep.loss.tables import View
from tokensweep.registry import component


class Proxy(StrEnum):
    """How a token's effect on the entropy is predicted."""

    printed = "printed"  # the paper's equation 6, as far as it is known
    exact = "exact"  # first order of one step of a tabular softmax


class Sides(StrEnum):
    """Which tokens are reweighted."""

    both = "both"
    up = "up"  # only those predicted to raise entropy
    down = "down"  # only those predicted to lower it


@component("method/token_weights", "entropy_flow")
@dataclass(frozen=True)
class EntropyFlowWeight(TokenWeight):
    """``1 + lambda`` where a token is predicted to raise entropy, ``1 - lambda`` where to lower it, [n].

    With p the old policy's probability of the token, H the entropy in nats and A the advantage, the predicted
    change of H is, up to the learning rate,

        printed   d = -A (1 - p)^2 (log p + H)
        exact     d = -A (p (log p + H) - sum_v p_v^2 (log p_v + H))

    and with P the sum of the positive and N that of the negative ``|d|`` over all tokens of the optimiser
    batch, ``lambda = (N - P) / (N + P)``, 0 without any flow: then ``(1 + lambda) P = (1 - lambda) N``, no
    net flow is left. ``static`` replaces lambda by a number; ``sides`` leaves the weight of one sign at 1,
    with the same lambda: the paper's ablations.

    Source: the paper's balancing rule. ``printed`` is a reconstruction: of eight forms the only one that
    gives the number that a note reports for its equation 6 (-0.115340 for p = 0.8, 0.2 and A = 0.2, -0.8).
    ``exact`` is our derivation. Departures: none known. Tokens count equally in P and N, as in a token mean;
    what other weights take out is counted too. The notes report lambda below 0.002, which this rule gives
    only for a flow that is nearly balanced already: look at the metric ``lambda``.
    Raises ValueError for more than one update per optimiser batch: the prediction is of the first only.
    """

    proxy: Proxy = Proxy.printed
    sides: Sides = Sides.both
    static: float | None = None  # lambda; replaces the adaptive one

    def __post_init__(self) -> None:
        if self.static is not None and not -1 <= self.static <= 1:
            raise ValueError(f"static must be in [-1, 1], got {self.static:g}")

    @property
    def needs(self) -> frozenset[str]:
        """Entropy, and what the exact proxy sums over the vocabulary."""
        exact = {"old_sum_p2c"} if self.proxy is Proxy.exact else set()
        return frozenset({"old_entropy", *exact})

    def flow(self, view: View) -> Tensor:
        """Predicted change of entropy by each token, [n]; its unit is the learning rate's."""
        log_p = view.logprobs.detach()
        p, centred = log_p.exp(), log_p + view.entropy
        if self.proxy is Proxy.exact:
            return -view.advantages * (p * centred - view.columns["old_sum_p2c"])
        return -view.advantages * (1 - p) ** 2 * centred

    def __call__(self, view: View) -> Tensor:
        flow = self.flow(view)
        strength = self._strength(flow)
        weight = torch.ones_like(view.advantages)
        if self.sides is not Sides.down:
            weight = torch.where(flow > 0, 1 + strength, weight)
        if self.sides is not Sides.up:
            weight = torch.where(flow < 0, 1 - strength, weight)
        return weight

    def _strength(self, flow: Tensor) -> Tensor:
        """Lambda, a scalar."""
        if self.static is not None:
            return flow.new_tensor(self.static)
        up, down = _sums(flow)
        return torch.where(up + down > 0, (down - up) / (up + down), 0.0).to(flow.dtype)

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """Lambda, the flow either way per token, and what the weights leave of their difference."""
        flow = self.flow(whole)
        up, down = (float(x) / max(flow.numel(), 1) for x in _sums(flow))
        left_up, left_down = (float(x) / max(flow.numel(), 1) for x in _sums(self(whole) * flow))
        return {
            "lambda": float(self._strength(flow)),
            "flow_up": up,  # P over the number of tokens
            "flow_down": down,  # N over the number of tokens
            "flow_left": left_up - left_down,
            "up_fraction": float((flow > 0).double().mean()),
            "down_fraction": float((flow < 0).double().mean()),
        }

    def check(self, method: Method) -> None:
        """One step per batch: only then every ratio is 1 and the prediction is of the step that is made."""
        if method.updates_per_batch != 1:
            raise ValueError(
                "entropy_flow predicts one step of the policy that sampled, so method.updates_per_batch must "
                f"be 1, got {method.updates_per_batch}: set it to 1 after any scale that sets another"
            )


def _sums(flow: Tensor) -> tuple[Tensor, Tensor]:
    """P and N: the sums of the positive flow and of the negative, both as positive numbers, in float64."""
    return flow.clamp(min=0).double().sum(), (-flow).clamp(min=0).double().sum()
