"""What a prompt weighs in the loss when groups differ in size, for every allocation that lets them differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import Policy, TokenWeight
from tokensweep.loss.tables import Unit, View
from tokensweep.registry import component


@component("method/token_weights", "equal_prompts")
@dataclass(frozen=True)
class EqualPrompts(TokenWeight):
    """The same weight for every prompt, however many rollouts it has, [n].

    Without it a mean counts each rollout once, so a prompt weighs as much as its group is large. With unit
    ``rollout`` a token has the weight ``R / (P G)`` (R rollouts of P prompts in the optimiser batch, G of
    them its group's), which makes ``aggregate=rollout_mean`` the mean over prompts of the mean over their
    rollouts; with unit ``token`` it is ``N / (P N_g)`` over tokens, for ``aggregate=token_mean``. Groups of
    one size have weight 1 under ``rollout``. Regularizers see no weights, so they are not changed.
    Source: none; papers with groups of different sizes leave it open.
    """

    policy: ClassVar[Policy] = Policy.old

    unit: Unit = Unit.rollout

    def __call__(self, view: View) -> Tensor:
        size = torch.ones_like(view.lengths) if self.unit is Unit.rollout else view.lengths
        of_group = torch.bincount(view.prompt_of, weights=size.double())
        weight = size.sum() / ((of_group > 0).sum() * of_group)
        return weight[view.prompt_of[view.rollout_of]].to(view.advantages.dtype)
