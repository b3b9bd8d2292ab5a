"""GMPO: the geometric mean of a rollout's token ratios, each clipped in log space before.

Source: Zhao et al., arXiv:2507.20673 (``paper`` below) and the authors' code (``code``). The geometric mean
is ``holder_token`` of order 0, option ``geometric_mean``; what is new is the clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import TOKEN_LOCAL, Guarantee, Surrogate, on_policy
from tokensweep.loss.tables import View
from tokensweep.registry import component


@component("method/surrogate", "log_clip")
@dataclass(frozen=True)
class LogClip(Surrogate):
    """Advantage times a ratio clipped in log space on the side where it helps, [n]: ``A exp(D')``.

    ``D' = min(D, high)`` for A > 0 and ``max(D, -low)`` for A < 0, with D the log ratio in nats. A clipped
    token has no gradient of its own but keeps its bound in a mean over the rollout.
    Source: the paper and the code: low = high = 0.4, ratios of 0.67 to 1.49. Departure: none. verl hands its
    clip_ratio values over as these log bounds, so that 0.2 is not a ratio of 1.2 there.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL | {Guarantee.scales_advantage}

    low: float = 0.4
    high: float = 0.4

    def __post_init__(self) -> None:
        if self.low < 0 or self.high < 0:
            raise ValueError(f"low and high must be at least 0 nats, got {self.low:g} and {self.high:g}")

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        raises, lowers = log_ratio.clamp(max=self.high), log_ratio.clamp(min=-self.low)
        return view.advantages * torch.where(view.advantages > 0, raises, lowers).exp()

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """Tokens [n] bool that the clip leaves without a gradient of their own."""
        above = (view.advantages > 0) & (log_ratio > self.high)
        return above | ((view.advantages < 0) & (log_ratio < -self.low))

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """Both bounds, as long as every ratio is 1."""
        return on_policy("low", "high", updates_per_batch=updates_per_batch)
