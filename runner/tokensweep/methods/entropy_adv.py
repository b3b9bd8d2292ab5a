"""Entropy-shaped advantages, "Reasoning with exploration": uncertain tokens get a bonus.

Source: Cheng et al., arXiv:2506.14758 (``paper`` below), read in two detailed notes; no official code found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import TOKEN_LOCAL, AdvantageShaper, Guarantee, Policy
from tokensweep.loss.tables import View
from tokensweep.registry import component


@component("method/advantage_shapers", "entropy_adv")
@dataclass(frozen=True)
class EntropyShapedAdvantage(AdvantageShaper):
    """Advantages plus a bonus that grows with a token's entropy, [n]: ``A + min(strength H, |A| / bound)``.

    The bonus is never negative: it raises right uncertain tokens and softens the blame of wrong ones; with
    ``bound > 1`` no sign changes. H in nats, not differentiated.
    Source: the paper: alpha (here ``strength``) 0.4 for GRPO and 0.1 for PPO, kappa (``bound``) 2, the
    entropy of the current forward. Departure: none known; whether advantages are normalised again
    afterwards is not stated (here they are not).
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    strength: float = 0.4  # alpha
    bound: float = 2.0  # kappa
    policy: Policy = Policy.current

    def __post_init__(self) -> None:
        if self.strength < 0 or self.bound <= 0:
            raise ValueError(
                f"strength must be at least 0 and bound above 0, got {self.strength:g} and {self.bound:g}"
            )

    @property
    def needs(self) -> frozenset[str]:
        """The entropy it reads."""
        return frozenset({"entropy" if self.policy is Policy.current else "old_entropy"})

    def __call__(self, view: View) -> Tensor:
        bonus = torch.minimum(self.strength * view.entropy, view.advantages.abs() / self.bound)
        return view.advantages + bonus.to(view.advantages.dtype)
