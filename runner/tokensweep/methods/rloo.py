"""RLOO: each rollout is compared with the others of its prompt.

Source: Ahmadian et al., arXiv:2402.14740 (``paper`` below). Its KL to the reference belongs to the reward:
``method/token_rewards=kl``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import Advantage
from tokensweep.loss.tables import Batch
from tokensweep.registry import component


@component("method/advantage", "leave_one_out")
@dataclass(frozen=True)
class LeaveOneOutAdvantage(Advantage):
    """Reward minus the mean reward of the other rollouts of the group, the same for all tokens, [N].

    ``A_i = R_i - mean_{j != i} R_j = G / (G - 1) (R_i - mean_g R)``; a group of equal rewards, or of one
    rollout, gets exactly 0.
    Source: the paper, the RLOO estimator. Departure: a lone rollout has no others, here it gets 0.
    """

    smallest_group: ClassVar[int] = 2

    def __call__(self, batch: Batch) -> Tensor:
        group = batch.prompt_of
        size = batch.by_prompt(torch.ones_like(batch.rewards))[group]
        others = (batch.by_prompt(batch.rewards)[group] - batch.rewards) / (size - 1).clamp(min=1)
        return torch.where(batch.equal_rewards[group], 0.0, batch.rewards - others)[batch.rollout_of]
