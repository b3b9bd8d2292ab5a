"""Archer: uncertain tokens may move further than certain ones, which also stay close to the reference.

Source: Wang et al., arXiv:2507.15778 (abstract and notes were read) and the authors' fork of verl, as other
forks of it have it (``code`` below). The penalty is the regularizer ``kl`` with ``where=certain``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import ROLLOUT_LOCAL, Guarantee, Policy, on_policy
from tokensweep.loss.tables import View
from tokensweep.methods.dual_clip import held
from tokensweep.methods.forking_tokens import RankBy, above_quantile, ranking, ranking_needs
from tokensweep.methods.grpo import PPOClip
from tokensweep.registry import component


@component("method/surrogate", "archer")
@dataclass(frozen=True)
class TwoClips(PPOClip):
    """PPO's clipped objective with a wider clip for uncertain tokens, [n].

    Uncertain are the tokens above the ``quantile`` of the entropies of their rollout, interpolated linearly,
    certain all others; tokens of weight 0 do not exist. Certain ones are clipped to ``1 - low .. 1 + high``,
    uncertain ones to ``1 - uncertain_low .. 1 + uncertain_high``. With ``cap`` A < 0 is held above ``cap A``
    (dual clip). Entropy has no gradient.
    Source: the code: quantile 0.8, clips 0.2 and 0.5 to both sides, cap 10, entropy of the current forward
    (``policy=current``; preset ``archer_as_released``). Departures: by default the old policy's entropy, the
    same for all updates of a batch, and no cap.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = ROLLOUT_LOCAL | {Guarantee.scales_advantage}

    uncertain_low: float = 0.5
    uncertain_high: float = 0.5
    cap: float | None = None
    quantile: float = 0.8  # rho
    rank_by: RankBy = RankBy.entropy
    policy: Policy = Policy.old  # whose entropy

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._wide  # checks its bounds
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile must be in [0, 1], got {self.quantile:g}")
        if self.cap is not None and self.cap <= 1:
            raise ValueError(f"cap must be above 1, the ratio without any change, got {self.cap:g}")

    @property
    def needs(self) -> frozenset[str]:
        """What the tokens are ranked by."""
        return ranking_needs(self.rank_by, self.policy)

    def uncertain(self, view: View) -> Tensor:
        """The tokens that may move further, [n] bool."""
        rank = ranking(view, by=self.rank_by, policy=self.policy)
        known = torch.where(view.weights != 0, rank, -torch.inf)
        return above_quantile(known, view.rollout_of, quantile=self.quantile)

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        wide, narrow = self._wide(view, log_ratio), super().__call__(view, log_ratio)
        objective = torch.where(self.uncertain(view), wide, narrow)
        return objective if self.cap is None else held(objective, view.advantages, cap=self.cap)

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """Tokens [n] bool that a clip leaves without gradient."""
        wide, narrow = self._wide.clipped(view, log_ratio), super().clipped(view, log_ratio)
        clipped = torch.where(self.uncertain(view), wide, narrow)
        if self.cap is None:
            return clipped
        return clipped | ((view.advantages < 0) & (log_ratio.exp() > self.cap))

    @property
    def _wide(self) -> PPOClip:
        return PPOClip(low=self.uncertain_low, high=self.uncertain_high)

    def metrics(self, view: View, log_ratio: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Share of the tokens that is uncertain, and what is clipped of either kind."""
        there, uncertain, clipped = view.weights != 0, self.uncertain(view), self.clipped(view, log_ratio)
        certain = there & ~uncertain
        return {
            "uncertain_fraction": (uncertain.sum(), there.sum()),
            "uncertain_clip_fraction": ((uncertain & clipped).sum(), uncertain.sum()),
            "certain_clip_fraction": ((certain & clipped).sum(), certain.sum()),
        }

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """All bounds, as long as every ratio is 1, and with them what tells the tokens apart."""
        fields = ("low", "high", "uncertain_low", "uncertain_high", "cap", "quantile", "rank_by", "policy")
        return on_policy(*fields, updates_per_batch=updates_per_batch)
