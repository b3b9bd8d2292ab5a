"""VESPO: the likelihood ratio of the whole rollout, reshaped by a smooth kernel, weighs its log-likelihood.

Source: Shen et al., arXiv:2602.10693 v3 (``paper`` below) and the authors' code (``code``); TRL read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import ROLLOUT_LOCAL, TOKEN_LOCAL, Guarantee, Ratio, Surrogate, on_policy
from tokensweep.loss.tables import MAX_LOG_RATIO, View, mean_over
from tokensweep.registry import component

_MIN_LOG_WEIGHT = -18.420680743952367  # log 1e-8, the lower bound of the code: its kernel is 1e-15 there


@component("method/ratio", "sequence_product")
@dataclass(frozen=True)
class SequenceProduct(Ratio):
    """Log of the product of a rollout's token ratios, the same for all its tokens, [n] nats.

    ``log W_i = sum_t log r_t``: the likelihood ratio of the rollout, without a root by its length. Tokens of
    weight 0 have no part in it. Held between log 1e-8 and 20 nats.
    Source: the paper, its sequence weight, and the code's bounds. Departure: none.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = ROLLOUT_LOCAL

    def __call__(self, view: View) -> Tensor:
        there = torch.where(view.weights != 0, view.log_ratio, 0.0)
        return view.by_rollout(there)[view.rollout_of].clamp(_MIN_LOG_WEIGHT, MAX_LOG_RATIO)


@component("method/surrogate", "vespo")
@dataclass(frozen=True)
class GammaKernel(Surrogate):
    """Weighted log-likelihood, [n]: ``sg(phi(W)) A log pi`` with ``sg`` no gradient.

    ``phi(W) = W^power exp(decay (1 - W))``, which is 1 at W = 1, greatest at ``W = power / decay`` and 0 at
    both ends; power and decay by the sign of A. W is whatever the ratio says: ``sequence_product`` in the
    paper. power 0 and decay 0 is REINFORCE, power 1 and decay 0 unclipped importance weighting.
    Source: the paper: (2, 3) for A >= 0 and (3, 2) for A < 0, as the code and TRL have it. Departures: the
    code takes the sign of a rollout's first token, here each token has its own, which is the same where a
    rollout has one advantage; the code and TRL hold decay at 1e-4 or more, here it may be 0.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    power_positive: float = 2.0  # k+, c1 of v3
    decay_positive: float = 3.0  # lambda+, c2 of v3
    power_negative: float = 3.0  # k-
    decay_negative: float = 2.0  # lambda-

    def __post_init__(self) -> None:
        fields = (self.power_positive, self.decay_positive, self.power_negative, self.decay_negative)
        if min(fields) < 0:
            raise ValueError(
                f"powers and decays must be at least 0, got {', '.join(f'{x:g}' for x in fields)}"
            )

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        return self.kernel(view, log_ratio.detach()) * view.advantages * view.logprobs

    def kernel(self, view: View, log_ratio: Tensor) -> Tensor:
        """``phi(W)`` of each token, [n]."""
        good = view.advantages >= 0
        power = torch.where(good, self.power_positive, torch.full_like(log_ratio, self.power_negative))
        decay = torch.where(good, self.decay_positive, torch.full_like(log_ratio, self.decay_negative))
        return (power * log_ratio + decay * (1 - log_ratio.exp())).exp()

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """Tokens [n] bool whose kernel is below one half: they keep a gradient."""
        return self.kernel(view, log_ratio) < 0.5

    def metrics(self, view: View, log_ratio: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The mean kernel of tokens with A > 0 and with A < 0, and the mean of ``|log W|`` in nats."""
        kernel, good = self.kernel(view, log_ratio), view.advantages > 0
        return {
            "kernel_positive": mean_over(view.signal & good, kernel),
            "kernel_negative": mean_over(view.signal & ~good, kernel),
            "distance": mean_over(view.signal, log_ratio.abs()),
        }

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """All of them, as long as every ratio is 1."""
        names = ("power_positive", "decay_positive", "power_negative", "decay_negative")
        return on_policy(*names, updates_per_batch=updates_per_batch)
