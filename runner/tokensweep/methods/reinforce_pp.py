"""REINFORCE++: advantages are normalised over the whole optimiser batch instead of the group.

Source: Hu et al., arXiv:2501.03262 (``paper`` below); implementation read: verl (``code``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import Advantage
from tokensweep.loss.tables import Batch, Unit
from tokensweep.registry import component


def whiten(x: Tensor, *, eps: float) -> Tensor:
    """``(x - mean) / sqrt(variance + eps)`` with the sample variance; exactly 0 where all ``x`` are equal."""
    if x.numel() < 2 or bool((x == x[0]).all()):
        return torch.zeros_like(x)
    centred = x - x.mean()
    variance = centred.square().sum() / (x.numel() - 1)
    return centred * (variance + eps).rsqrt()


@component("method/advantage", "reinforce_pp")
@dataclass(frozen=True)
class ReinforcePPAdvantage(Advantage):
    """Discounted reward still to come at each token, whitened over all tokens of the optimiser batch, [N].

    ``G_t = sum_{k >= t} gamma^(k - t) rew_k``, where the rollout's reward falls on its last token and token
    rewards (a KL penalty) on theirs; then mean 0 and sample variance 1 over the N tokens.
    Source: the paper; eps and the sample variance are the code's. Departure: none.
    """

    gamma: float = 1.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1 or self.eps < 0:
            raise ValueError(
                f"gamma must be in [0, 1] and eps at least 0, got {self.gamma:g} and {self.eps:g}"
            )

    def __call__(self, batch: Batch) -> Tensor:
        return whiten(self._returns(batch), eps=self.eps)

    def _returns(self, batch: Batch) -> Tensor:
        """Reward still to come at each token, [N]."""
        to_go = (batch.lengths[batch.rollout_of] - 1 - batch.completion_position).to(batch.rewards.dtype)
        earned = batch.columns.get("token_rewards")
        if earned is None:
            return batch.rewards[batch.rollout_of] * self.gamma**to_go
        at_end = (batch.rewards - batch.by_rollout(earned))[batch.rollout_of]
        return at_end * self.gamma**to_go + self._earned_later(batch, earned)

    def _earned_later(self, batch: Batch, earned: Tensor) -> Tensor:
        """Discounted token rewards from each token on, [N]: the recursion runs over all rollouts at once."""
        table = earned.new_zeros(batch.num_rollouts, int(batch.lengths.max()) + 1)
        table[batch.rollout_of, batch.completion_position] = earned
        for position in range(table.shape[1] - 2, -1, -1):
            table[:, position] += self.gamma * table[:, position + 1]
        return table[batch.rollout_of, batch.completion_position]


@component("method/advantage", "reinforce_pp_baseline")
@dataclass(frozen=True)
class ReinforcePPBaselineAdvantage(Advantage):
    """Reward relative to the group's mean, whitened over the optimiser batch, the same for all tokens, [N].

    ``a_i = R_i - mean_g R``, then mean 0 and sample variance 1. With ``unit: token`` the statistics run over
    tokens, so that long rollouts weigh more and a group's advantages no longer sum to 0 (the code); with
    ``rollout`` over rollouts (ms-swift, which does not subtract the mean again: it is 0 then).
    A group of equal rewards keeps ``a_i = 0`` before whitening, and after it with ``rollout``.
    Source: the paper, the variant with baseline; it leaves the unit open. Departure: none.
    """

    smallest_group: ClassVar[int] = 2

    unit: Unit = Unit.token
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.eps < 0:
            raise ValueError(f"eps must be at least 0, got {self.eps:g}")

    def __call__(self, batch: Batch) -> Tensor:
        group = batch.prompt_of
        centred = torch.where(batch.equal_rewards[group], 0.0, batch.centred_rewards)
        if self.unit is Unit.token:
            return whiten(centred[batch.rollout_of], eps=self.eps)
        return whiten(centred, eps=self.eps)[batch.rollout_of]
