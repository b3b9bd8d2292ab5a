"""Corrections for rollouts that were not drawn by the policy that is trained: TIS, MIS, IcePop, Geo-Mask.

The engine that samples and the trainer give a token different probabilities (kernels, number formats,
routing), so data that is on-policy by name is not. Every component here turns their ratio,
``rho_t = pi_old / pi_sampler`` from the columns ``old_logprobs`` and ``sampler_logprobs``, into a token
weight that is fixed before the first update; the surrogate's own ratio stays that of current to old policy.
A token that both rate alike has weight 1 exactly. With ``rollout=torch`` in float32 all are 1 up to rounding.

Weights do not move denominators: ``token_mean`` and ``rollout_mean`` divide by all trained tokens, those of
weight 0 included, as verl (for weights) and TRL do; ``selected_mean`` divides by the sum of the weights,
which normalises them. Regularizers see no weights. All of it is wrong for a sampler with top-p or top-k,
whose log-probabilities are of fewer tokens than the trainer's: such a run is refused before it starts.
Rollouts drawn by a sampling rule (``method/sampling``) have a ratio of 1 here: see ``trusting_trainer``.

Sources: Yao et al., "Your efficient RL framework secretly brings you off-policy RL training",
fengyao.notion.site/off-policy-rl (``Yao``); Liu, Li et al., "When speed kills stability",
richardli.xyz/rl-collapse with parts 2 and 3 (``Liu``); Ling Team, "Every step evolves", arXiv:2510.18855
(``Ling``). All three were read in excerpts only; the code of verl 0.9.1 (trainer/ppo/rollout_corr_helper.py)
and TRL 1.16.0 (trainer/grpo_trainer.py) decided what they leave open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.slots import Guarantee, TokenWeight
from tokensweep.loss.tables import MAX_LOG_RATIO, View
from tokensweep.registry import component


class Level(StrEnum):
    """What is likely or unlikely as a whole."""

    token = "token"  # each token by itself: low variance, biased, as its prefix is not corrected
    sequence = (
        "sequence"  # the rollout, by the product of its tokens' ratios: the same weight for all of them
    )


def importance(view: View, level: Level) -> Tensor:
    """Old policy's over sampler's probability of each token or of its whole rollout, [n] float64.

    Log ratios are held within ±20 nats, those of a rollout after they were added up (as in verl).
    """
    log_ratio = _log_ratio(view)
    if level is Level.sequence:
        log_ratio = view.by_rollout(log_ratio)[view.rollout_of]
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _log_ratio(view: View) -> Tensor:
    return view.columns["old_logprobs"].double() - view.columns["sampler_logprobs"].double()


def _check_cap(cap: float) -> None:
    if cap < 1:
        raise ValueError(f"cap must be at least 1, the ratio of a token without mismatch, got {cap:g}")


def _check_bounds(low: float, high: float) -> None:
    if not 0 <= low <= 1 <= high:
        raise ValueError(
            f"low must be in [0, 1] and high at least 1, the ratio without mismatch, got {low:g} and {high:g}"
        )


@dataclass(frozen=True)
class _Reweighting(TokenWeight):
    """What the corrections that weigh by the ratio have in common: only one of them fits into a method."""

    needs: ClassVar[frozenset[str]] = frozenset({"sampler_logprobs"})

    def _level(self) -> Level:
        return Level.token

    def check(self, method: Method) -> None:
        """One ratio is corrected once, and tokens only where a token's weight stays with the token."""
        there = [name for name, part in method.token_weights.items() if isinstance(part, _Reweighting)]
        if len(there) > 1:
            raise ValueError(
                f"the ratio to the sampler must be a weight once, got {' and '.join(there)}: drop one of "
                f"them, as in '~method.token_weights.{there[0]}'"
            )
        parts = (method.ratio, method.surrogate, method.aggregate)
        mixing = [type(part).__name__ for part in parts if _mixes_tokens(part.guarantees)]
        if self._level() is Level.token and mixing:
            raise ValueError(
                f"a correction per token must stay with its token, but {' and '.join(mixing)} would weigh "
                "the ratios of a rollout against each other by it: take level=sequence of tis or mis"
            )


def _mixes_tokens(laws: frozenset[Guarantee]) -> bool:
    """Whether a part reads other tokens of the rollout."""
    return Guarantee.rollout_local in laws and Guarantee.token_local not in laws


@component("method/token_weights", "tis")
@dataclass(frozen=True)
class TruncatedImportance(_Reweighting):
    """Ratio to the sampler, truncated, [n]: ``min(rho, cap)``; of the token, or of its rollout.

    Source: Yao, the truncated importance weight in front of PPO's objective, per token; Liu, part 2, for
    the rollout (Seq-TIS). cap 2 is verl's default at both levels (``rollout_is_threshold``). Departure: none;
    verl can also scale the weights to a mean of 1, which is off by default.
    """

    cap: float = 2.0  # C
    level: Level = Level.token

    def __post_init__(self) -> None:
        _check_cap(self.cap)

    def _level(self) -> Level:
        return self.level

    def __call__(self, view: View) -> Tensor:
        return importance(view, self.level).clamp(max=self.cap).to(view.advantages.dtype)


@component("method/token_weights", "mis")
@dataclass(frozen=True)
class MaskedImportance(_Reweighting):
    """Ratio to the sampler, 0 above the cap, [n]: ``rho 1{rho <= cap}``; of the rollout, or of the token.

    Source: Liu, part 3, Seq-MIS: a rollout above the cap is out of the sampler's reach, so it is dropped and
    not truncated. cap 3 is TRL's default at both levels (``vllm_importance_sampling_clip_max``, mode
    ``sequence_mask``). Departure: a ratio beyond 20 nats is held there, where TRL lets it overflow.
    """

    cap: float = 3.0  # C
    level: Level = Level.sequence

    def __post_init__(self) -> None:
        _check_cap(self.cap)

    def _level(self) -> Level:
        return self.level

    def __call__(self, view: View) -> Tensor:
        ratio = importance(view, self.level)
        return torch.where(ratio <= self.cap, ratio, 0.0).to(view.advantages.dtype)


@component("method/token_weights", "icepop")
@dataclass(frozen=True)
class IcePop(_Reweighting):
    """Token's ratio to the sampler, 0 outside a band, [n]: ``rho 1{low <= rho <= high}``.

    Source: Ling, the IcePop objective with ``M(k) = k`` for k in [alpha, beta], else 0; 0.5 and 5 as in verl
    (``decoupled_token_icepop``). Departure: none. prime-rl and rLLM put the current policy into the ratio
    instead of the old one, and then need no clip.
    """

    low: float = 0.5  # alpha
    high: float = 5.0  # beta

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high)

    def __call__(self, view: View) -> Tensor:
        ratio = importance(view, Level.token)
        inside = (ratio >= self.low) & (ratio <= self.high)
        return torch.where(inside, ratio, 0.0).to(view.advantages.dtype)


@component("method/token_weights", "geo_mask")
@dataclass(frozen=True)
class GeometricMask(TokenWeight):
    """1 for rollouts whose mean ratio to the sampler lies in a band, else 0, [n].

    ``1{low <= (prod_t rho_t)^(1/|o_i|) <= high}``: a limit per token, so that length alone rejects nothing.
    It corrects nothing and goes with ``tis`` or ``mis``.
    Source: Liu, part 3, Geo-Mask; 0.999 and 1.001 as in verl (``decoupled_geo_rs``), meant for half precision
    engines. Departures: verl takes rejected tokens out of the denominators, here they stay; verl's bounds are
    those of the inverse ratio, which for these two is the same to 1e-6.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"sampler_logprobs"})

    low: float = 0.999
    high: float = 1.001

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high)

    def __call__(self, view: View) -> Tensor:
        held = _log_ratio(view).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        mean = view.by_rollout(held) / view.lengths.clamp(min=1)
        lowest = math.log(self.low) if self.low > 0 else -math.inf
        inside = (mean >= lowest) & (mean <= math.log(self.high))
        return inside[view.rollout_of].to(view.advantages.dtype)
