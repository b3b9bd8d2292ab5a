"""CISPO: the importance weight is capped and constant, so every token keeps a gradient.

Source: MiniMax, arXiv:2506.13585, section 3.1 (``paper`` below); it gives no value for the cap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import TOKEN_LOCAL, Guarantee, Surrogate, on_policy
from tokensweep.loss.tables import View
from tokensweep.registry import component


@component("method/surrogate", "cispo")
@dataclass(frozen=True)
class CISPO(Surrogate):
    """Weighted log-likelihood, [n]: ``sg(min(r, is_cap)) A log pi`` with ``sg`` no gradient.

    Source: the paper, its objective with the lower bound disabled, as there; ``is_cap = 1 + eps_high_IS``,
    as an absolute number (verl and the paper count from 1, TRL and ms-swift use the absolute one).
    Departure: the cap. The paper does not disclose it. 5.0 is what TRL suggests for the ScaleRL recipe;
    it cuts only weights that would dominate a mean, while 1.28 (DAPO's bound) would cap about as often as
    PPO clips and so test another idea.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    is_cap: float = 5.0

    def __post_init__(self) -> None:
        _check_cap(self.is_cap)

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        weight = log_ratio.detach().exp().clamp(max=self.is_cap)
        return weight * view.advantages * view.logprobs

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """Tokens [n] bool whose weight is capped; they keep a gradient."""
        return log_ratio.exp() > self.is_cap

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """A cap of at least 1, as long as every ratio is 1."""
        return on_policy("is_cap", updates_per_batch=updates_per_batch) if self.is_cap >= 1 else {}


@component("method/surrogate", "cispo_masked")
@dataclass(frozen=True)
class MaskedCISPO(Surrogate):
    """CISPO with PPO's trust region as a mask, [n]: ``sg(min(r, is_cap) M) A log pi``.

    ``M`` is 0 where A > 0 and r > 1 + high, or A < 0 and r < 1 - low, else 1. Without a cap the gradient is
    that of ``ppo_clip`` exactly.
    Source: the paper, the unified form with a token mask; bounds are DAPO's. Departure: none.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    low: float = 0.2
    high: float = 0.28
    is_cap: float | None = None  # None: no cap

    def __post_init__(self) -> None:
        if not 0 <= self.low < 1 or self.high < 0:
            raise ValueError(f"low must be in [0, 1) and high at least 0, got {self.low:g} and {self.high:g}")
        if self.is_cap is not None:
            _check_cap(self.is_cap)

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        weight = log_ratio.detach().exp()
        if self.is_cap is not None:
            weight = weight.clamp(max=self.is_cap)
        inside = ~self.clipped(view, log_ratio.detach())
        return torch.where(inside, weight, 0.0) * view.advantages * view.logprobs

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """Tokens [n] bool that the mask takes out."""
        ratio, advantages = log_ratio.exp(), view.advantages
        above = (advantages > 0) & (ratio > 1 + self.high)
        return above | ((advantages < 0) & (ratio < 1 - self.low))

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """The bounds and a cap of at least 1, as long as every ratio is 1."""
        cap = ("is_cap",) if self.is_cap is None or self.is_cap >= 1 else ()
        return on_policy("low", "high", *cap, updates_per_batch=updates_per_batch)


def _check_cap(cap: float) -> None:
    if cap <= 0:
        raise ValueError(f"is_cap must be above 0, got {cap:g}")
