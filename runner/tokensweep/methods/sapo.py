"""SAPO: a smooth gate on the ratio takes the place of the clip, narrower where the advantage is negative.

Source: Gao et al., arXiv:2511.20347 (``paper`` below); implementations read: TRL and verl.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import TOKEN_LOCAL, Guarantee, Surrogate, on_policy
from tokensweep.loss.tables import View, mean_over
from tokensweep.registry import component


@component("method/surrogate", "sapo")
@dataclass(frozen=True)
class SoftGate(Surrogate):
    """Gated advantage, [n]: ``4 / tau sigmoid(tau (r - 1)) A``, tau by the sign of A.

    The gradient is that of ``r A`` times the gate ``4 s (1 - s)``, ``s = sigmoid(tau (r - 1))``: 1 at r = 1,
    less on both sides, 0 nowhere. Large tau is a narrow gate; tau near 0 is plain importance weighting.
    Source: the paper, its surrogate with tau 1.0 for A > 0 and 1.05 for A <= 0, as TRL and verl have it.
    Departure: none.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL | {Guarantee.scales_advantage}

    tau_positive: float = 1.0
    tau_negative: float = 1.05

    def __post_init__(self) -> None:
        if self.tau_positive <= 0 or self.tau_negative <= 0:
            raise ValueError(
                "tau_positive and tau_negative must be above 0, got "
                f"{self.tau_positive:g} and {self.tau_negative:g}: method/surrogate=unclipped has no gate"
            )

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        tau = self._tau(view)
        return 4 / tau * torch.sigmoid(tau * (log_ratio.exp() - 1)) * view.advantages

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """Tokens [n] bool whose gate is below one half: they keep a gradient."""
        return self.gate(view, log_ratio) < 0.5

    def gate(self, view: View, log_ratio: Tensor) -> Tensor:
        """What is left of the gradient of ``r A``, [n] in (0, 1]."""
        opened = torch.sigmoid(self._tau(view) * (log_ratio.exp() - 1))
        return 4 * opened * (1 - opened)

    def _tau(self, view: View) -> Tensor:
        tau = torch.full_like(view.advantages, self.tau_negative)
        return torch.where(view.advantages > 0, self.tau_positive, tau)

    def metrics(self, view: View, log_ratio: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The mean gate of tokens with A > 0 and with A < 0: 1 on-policy, less the further away."""
        gate, good = self.gate(view, log_ratio), view.advantages > 0
        return {
            "gate_positive": mean_over(view.signal & good, gate),
            "gate_negative": mean_over(view.signal & ~good, gate),
        }

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """Both temperatures, as long as every ratio is 1."""
        return on_policy("tau_positive", "tau_negative", updates_per_batch=updates_per_batch)
