"""GRPO, the reference that every other method departs from, as components for all single slots.

Source: Shao et al., DeepSeekMath, arXiv:2402.03300 (``paper`` below).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from tokensweep.loss.outcomes import Outcomes
from tokensweep.loss.slots import (
    TOKEN_LOCAL,
    Advantage,
    Aggregate,
    Allocation,
    Guarantee,
    Minibatch,
    Ratio,
    RewardTerm,
    Sampling,
    Source,
    Surrogate,
    on_policy,
)
from tokensweep.loss.tables import Batch, Unit, View
from tokensweep.registry import component

if TYPE_CHECKING:
    from tokensweep.train.collect import Collector, Supply


@component("method/source", "engine")
@dataclass(frozen=True)
class EngineSource(Source):
    """Rollouts of the policy as it is, drawn for each optimiser batch."""

    def open(self, collector: Collector, *, folder: Path) -> Supply:
        """The collector itself; nothing is stored."""
        return collector


@component("method/allocation", "uniform")
@dataclass(frozen=True)
class UniformAllocation(Allocation):
    """The same number of rollouts for every prompt, all trained, also groups whose rewards are all equal."""

    def wanted(self, outcomes: Outcomes) -> Sequence[int]:
        """A group of every prompt in the first round, then nothing."""
        return () if outcomes.round else [outcomes.group_size] * outcomes.num_prompts

    def keep(self, accuracy: Tensor) -> bool:
        """Always true."""
        return True


@component("method/sampling", "plain")
@dataclass(frozen=True)
class PlainSampling(Sampling):
    """Every rollout is drawn as the run's ``sampling`` says, by no rule."""

    def rule(self, sample: int, *, group_size: int) -> None:
        """None."""
        return


@component("method/reward_terms", "verifier")
@dataclass(frozen=True)
class VerifierReward(RewardTerm):
    """The raw grade [R] of the verifier: 1 correct, 0 wrong.

    Papers with ±1 rewards get the same group-normalised advantages; a second term next to this one then
    weighs half of what the paper says.
    """

    weight: float = 1.0

    def __call__(self, batch: Batch) -> Tensor:
        return batch.accuracy


class Std(StrEnum):
    """What a group's rewards are divided by."""

    population = "population"  # divided by n
    sample = "sample"  # divided by n - 1
    none = "none"  # not divided


@component("method/advantage", "group_normalised")
@dataclass(frozen=True)
class GroupNormalisedAdvantage(Advantage):
    """Rewards relative to the group's mean in units of its standard deviation, the same for all tokens, [N].

    ``A_i = (R_i - mean_g R) / (std_g R + eps)``; a group of equal rewards, or of one rollout, gets exactly 0,
    whatever the rounding of its mean.
    Source: the paper, section on outcome supervision; it leaves open which standard deviation is meant and
    states no eps. verl and TRL take the sample standard deviation (eps 1e-6 and 1e-4), option
    ``sample_std``. Departure: verl leaves a lone rollout its raw reward, here it gets 0.
    """

    smallest_group: ClassVar[int] = 2

    std: Std = Std.population
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.eps < 0:
            raise ValueError(f"eps must be at least 0, got {self.eps:g}")

    def __call__(self, batch: Batch) -> Tensor:
        group = batch.prompt_of
        size = batch.by_prompt(torch.ones_like(batch.rewards))
        centred = batch.centred_rewards
        if self.std is not Std.none:
            degrees = size - 1 if self.std is Std.sample else size
            variance = batch.by_prompt(centred**2) / degrees.clamp(min=1)
            centred = centred / (variance.sqrt() + self.eps)[group]
        return torch.where(batch.equal_rewards[group], 0.0, centred)[batch.rollout_of]


@component("method/minibatch", "shuffled")
@dataclass(frozen=True)
class ShuffledMinibatch(Minibatch):
    """Rollouts dealt at random into mini-batches whose sizes differ by at most one.

    Source: none; the paper makes one update per batch. verl cuts in order, which keeps groups together.
    """

    def __call__(self, batch: Batch, *, num_minibatches: int, seed: int) -> Tensor:
        """Mini-batch of each rollout [R]. Raises ValueError for more mini-batches than rollouts."""
        count = batch.num_rollouts
        if not 1 <= num_minibatches <= count:
            raise ValueError(
                f"{count} rollouts must be dealt into 1 to {count} mini-batches, got {num_minibatches}: "
                "lower method.updates_per_batch, or raise batch.prompts or batch.group_size"
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        dealt = torch.empty(count, dtype=torch.int64)
        dealt[order] = torch.arange(count) * num_minibatches // count
        return dealt.to(batch.prompt_of.device)


@component("method/ratio", "token")
@dataclass(frozen=True)
class TokenRatio(Ratio):
    """Log ratio of current to old policy for each token, [n] nats.

    ``log r_t = logprobs_t - old_logprobs_t``. Source: the paper, the GRPO objective. Departure: held within
    ±20 nats, as in verl, so that ``exp`` is finite; beyond, the gradient is 0.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    def __call__(self, view: View) -> Tensor:
        return view.log_ratio


@component("method/surrogate", "ppo_clip")
@dataclass(frozen=True)
class PPOClip(Surrogate):
    """Clipped objective, [n]: ``min(r A, clip(r, 1 - low, 1 + high) A)``.

    The gradient is 0 exactly where A > 0 and r > 1 + high, or A < 0 and r < 1 - low.
    Source: the paper, the GRPO objective, with one epsilon; its value is not stated there, 0.2 is the usual
    one. Departure: none (verl adds a dual clip for A < 0, which the paper does not have).
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL | {Guarantee.scales_advantage}

    low: float = 0.2
    high: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 or self.high < 0:
            raise ValueError(f"low must be in [0, 1] and high at least 0, got {self.low:g} and {self.high:g}")

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.low, 1 + self.high)
        return torch.minimum(ratio * view.advantages, clipped * view.advantages)

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        """Tokens [n] bool that the clip leaves without gradient."""
        ratio, advantages = log_ratio.exp(), view.advantages
        above = (advantages > 0) & (ratio > 1 + self.high)
        return above | ((advantages < 0) & (ratio < 1 - self.low))

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """Both bounds, as long as every ratio is 1."""
        return on_policy("low", "high", updates_per_batch=updates_per_batch)


@component("method/aggregate", "rollout_mean")
@dataclass(frozen=True)
class RolloutMean(Aggregate):
    """Mean over rollouts of the mean over their tokens: ``1/R sum_i 1/|o_i| sum_t w_t x_t``.

    R counts the rollouts of the mini-batch, ``|o_i|`` all trained tokens of a rollout, whatever their weight.
    Source: the paper, the GRPO objective. Departure: none.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    def __call__(self, view: View, objective: Tensor) -> Tensor:
        return view.mean(view.weights * objective, Unit.rollout)


@component("method/aggregate", "token_mean")
@dataclass(frozen=True)
class TokenMean(Aggregate):
    """Mean over all tokens of the mini-batch: ``sum_t w_t x_t / sum_i |o_i|``.

    The denominator counts every trained token, whatever its weight, so a long rollout weighs more.
    Source: Yu et al., DAPO, arXiv:2503.14476, the token-level loss. Departure: the formula there divides
    by the tokens of a group, most code (as here) by those of the mini-batch.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    def __call__(self, view: View, objective: Tensor) -> Tensor:
        return view.mean(view.weights * objective, Unit.token)
