"""DPPO: the trust region is a bound on how far a token's probability moved, not on its ratio.

Source: Qi et al., arXiv:2602.04879 v1 (``paper`` below), read in excerpts; its binary divergences as the
authors brought them into verl (``code``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import TOKEN_LOCAL, Guarantee, Surrogate, on_policy
from tokensweep.loss.tables import View, mean_over
from tokensweep.registry import component

_TINY = 1e-8  # the code's; keeps the logarithm of "another token" finite


@dataclass(frozen=True)
class _Region(Surrogate):
    """What both divergences have in common: ``sg(min(r, is_cap) M) A log pi`` with ``sg`` no gradient.

    ``M`` is 0 for tokens outside the region that move further out: A > 0 and beyond ``high``, or A < 0 and
    beyond ``low``.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    low: float
    high: float
    is_cap: float | None = 20.0  # None: no cap

    def __post_init__(self) -> None:
        if self.low < 0 or self.high < 0:
            raise ValueError(f"low and high must be at least 0, got {self.low:g} and {self.high:g}")
        if self.is_cap is not None and self.is_cap < 1:
            raise ValueError(f"is_cap must be at least 1, the ratio without any change, got {self.is_cap:g}")

    @abstractmethod
    def _left(self, *, logprobs: Tensor, old_logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [n] bool whose probability fell by more than ``low``; rose by more than ``high``."""

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        weight = log_ratio.detach().exp()
        if self.is_cap is not None:
            weight = weight.clamp(max=self.is_cap)
        inside = ~self.clipped(view, log_ratio)
        return torch.where(inside, weight, 0.0) * view.advantages * view.logprobs

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """Tokens [n] bool that the mask takes out; those at the cap keep a gradient."""
        now, old = view.logprobs.detach(), view.columns["old_logprobs"]
        fell, rose = self._left(logprobs=now, old_logprobs=old)
        return ((view.advantages > 0) & rose) | ((view.advantages < 0) & fell)

    def metrics(self, view: View, log_ratio: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Shares that left, of tokens with A > 0 and with A < 0, and at the cap; mean ``|pi - pi_old|``."""
        left, good = self.clipped(view, log_ratio), view.advantages > 0
        moved = (view.logprobs.exp() - view.columns["old_logprobs"].exp()).abs()
        capped = torch.zeros_like(left) if self.is_cap is None else log_ratio.exp() > self.is_cap
        return {
            "left_positive": mean_over(view.signal & good, left.to(moved.dtype)),
            "left_negative": mean_over(view.signal & ~good, left.to(moved.dtype)),
            "capped": mean_over(view.signal, capped.to(moved.dtype)),
            "moved": mean_over(view.signal, moved),
        }

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """Bounds and cap, as long as every ratio is 1."""
        cap = () if self.is_cap is None else ("is_cap",)
        return on_policy("low", "high", *cap, updates_per_batch=updates_per_batch)


@component("method/surrogate", "dppo_tv")
@dataclass(frozen=True)
class TotalVariationRegion(_Region):
    """Masked and capped weighted log-likelihood, [n]; the region bounds ``pi - pi_old`` of the token.

    ``M`` is 0 where A > 0 and ``pi - pi_old > high``, or A < 0 and ``pi - pi_old < -low``: a rare token may
    grow many times over, a frequent one may not. The difference is the total variation of "this token or
    another one". With bounds of 1 it is ``cispo`` with the same cap.
    Source: the paper, DPPO-Binary-TV, and the code; 0.15 is that of the authors' script, cap 20 the code's
    default (section 5.4: a small one biases; the script sets 10,000). Departure: the old policy is the one
    that the trainer recomputed, as in the code; the paper means the policy that sampled, which is the same
    for an engine that agrees with the trainer (else add ``tis``).
    """

    low: float = 0.15
    high: float = 0.15

    def _left(self, *, logprobs: Tensor, old_logprobs: Tensor) -> tuple[Tensor, Tensor]:
        moved = logprobs.exp() - old_logprobs.exp()
        return moved < -self.low, moved > self.high


@component("method/surrogate", "dppo_kl")
@dataclass(frozen=True)
class BinaryKLRegion(_Region):
    """Masked and capped weighted log-likelihood, [n]; the region bounds a binary KL divergence.

    ``KL = p_old log(p_old / p) + (1 - p_old) log((1 - p_old) / (1 - p))`` of "this token or another one", in
    nats. ``M`` is 0 where A > 0, p > p_old and ``KL > high``, or A < 0, p < p_old and ``KL > low``.
    Source: the paper, DPPO-Binary-KL, and the code, with its 1e-8 in both terms of the second logarithm;
    0.05 is that of the authors' script. Cap and departure as for ``dppo_tv``.
    """

    low: float = 0.05
    high: float = 0.05

    def _left(self, *, logprobs: Tensor, old_logprobs: Tensor) -> tuple[Tensor, Tensor]:
        logprobs = logprobs.clamp(max=0)  # the probability of another token is not negative, rounding or not
        new, old = logprobs.exp(), old_logprobs.exp()
        others = ((1 - old + _TINY) / (1 - new + _TINY)).log()
        divergence = old * (old_logprobs - logprobs) + (1 - old) * others
        return (divergence > self.low) & (new < old), (divergence > self.high) & (new > old)
