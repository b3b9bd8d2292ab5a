"""Dual clip: a bad token whose ratio has grown large pulls no harder than a limit.

Source: Ye et al., arXiv:1912.09729 (``paper`` below); verl's recipes use it as a matter of course.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokensweep.loss.slots import on_policy
from tokensweep.loss.tables import View
from tokensweep.methods.grpo import PPOClip
from tokensweep.registry import component


def held(objective: Tensor, advantages: Tensor, *, cap: float) -> Tensor:
    """The objective [n], for A < 0 no lower than ``cap A``: there it has no gradient any more."""
    return torch.where(advantages < 0, torch.maximum(objective, cap * advantages), objective)


@component("method/surrogate", "dual_clip")
@dataclass(frozen=True)
class DualClip(PPOClip):
    """PPO's clipped objective, for A < 0 held above ``cap A``, [n]: ``max(min(r A, clip(r) A), cap A)``.

    For A < 0 a token with ``r > cap`` has no gradient; for A > 0 nothing changes.
    Source: the paper, equation 5, cap 3. verl: ``clip_ratio_c`` 3, its recipes 10. Departure: none.
    """

    cap: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cap <= 1:
            raise ValueError(f"cap must be above 1, the ratio without any change, got {self.cap:g}")

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        return held(super().__call__(view, log_ratio), view.advantages, cap=self.cap)

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """Tokens [n] bool that either clip leaves without gradient."""
        capped = (view.advantages < 0) & (log_ratio.exp() > self.cap)
        return super().clipped(view, log_ratio) | capped

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """All bounds, as long as every ratio is 1."""
        return on_policy("low", "high", "cap", updates_per_batch=updates_per_batch)
