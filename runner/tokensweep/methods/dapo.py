"""DAPO: what it adds to GRPO in the data and the reward; clip-higher and token mean are options elsewhere.

Source: Yu et al., arXiv:2503.14476 (``paper`` below); the authors' code is verl's recipe/dapo (``recipe``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.outcomes import Outcomes
from tokensweep.loss.slots import Allocation, Policy, RewardTerm, TokenWeight
from tokensweep.loss.tables import Batch, View
from tokensweep.registry import component


@component("method/allocation", "dynamic_sampling")
@dataclass(frozen=True)
class DynamicSampling(Allocation):
    """Samples until enough groups have ``0 < #correct < G``, at most ``max_rounds`` times.

    A round asks for ``ceil(oversample * missing)`` prompts. When the rounds are used up, the groups in hand
    are trained.
    Source: the paper, section on dynamic sampling; the recipe keeps a group when its grade is not constant.
    Departures: the recipe samples three times the train batch in each round, whatever is missing, throws
    the surplus away and stops with an error after ten rounds; here ``oversample = 1`` samples no surplus.
    """

    max_rounds: int = 10
    oversample: float = 1.0

    def __post_init__(self) -> None:
        if self.max_rounds < 1 or self.oversample < 1:
            raise ValueError(
                f"max_rounds and oversample must be at least 1, got {self.max_rounds} and {self.oversample:g}"
            )

    def wanted(self, outcomes: Outcomes) -> Sequence[int]:
        """Nothing for prompts drawn so far; whole groups of new ones, until enough are kept or rounds end."""
        missing = outcomes.num_prompts - sum(self.keep(grades) for grades in outcomes.grades)
        if missing <= 0 or outcomes.round >= self.max_rounds:
            return ()
        new = math.ceil(self.oversample * missing)
        return [0] * len(outcomes.grades) + [outcomes.group_size] * new

    def keep(self, accuracy: Tensor) -> bool:
        """Whether the grades [G] of a group differ."""
        return bool((accuracy != accuracy[0]).any())


@component("method/reward_terms", "soft_overlong")
@dataclass(frozen=True)
class SoftOverlongPenalty(RewardTerm):
    """0 for short completions, falling in a straight line to -1 at the length limit, [R].

    With limit ``L`` (the rollouts' ``max_tokens``) and cache ``C = cache_fraction * L``:
    ``clip((L - C - length) / C, -1, 0)``.
    Source: the paper, soft overlong punishment: L 20480, C 4096, factor 1 next to a reward of ±1. Departure:
    the verifier gives 0/1 here, half that range, hence the weight 0.5 for the same advantages.
    """

    weight: float = 0.5
    cache_fraction: float = 0.2  # 4096 / 20480

    def __post_init__(self) -> None:
        if not 0 < self.cache_fraction <= 1:
            raise ValueError(f"cache_fraction must be in (0, 1], got {self.cache_fraction:g}")

    def __call__(self, batch: Batch) -> Tensor:
        cache = self.cache_fraction * batch.max_tokens
        over = batch.lengths.to(batch.accuracy.dtype) - (batch.max_tokens - cache)
        return torch.clamp(-over / cache, -1.0, 0.0)


@component("method/token_weights", "not_truncated")
@dataclass(frozen=True)
class NotTruncated(TokenWeight):
    """0 for the tokens of rollouts that hit the length limit, 1 for all others, [n].

    They still count in the group's statistics, and in the denominators of ``token_mean`` and
    ``rollout_mean``.
    Source: the paper, overlong filtering, which masks their loss; its released recipe has none. Departure:
    the paper does not say what becomes of the denominators.
    """

    policy: ClassVar[Policy] = Policy.old

    def __call__(self, view: View) -> Tensor:
        return (~view.truncated[view.rollout_of]).to(view.advantages.dtype)
