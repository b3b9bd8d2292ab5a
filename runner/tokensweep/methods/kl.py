"""The divergence from a frozen reference model, as a penalty in the loss or in the reward.

Source: the three estimators are Schulman's, "Approximating KL divergence" (2020); where each paper puts which
of them is said in its preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import ROLLOUT_LOCAL, TOKEN_LOCAL, Guarantee, Policy, Regularizer, TokenReward
from tokensweep.loss.tables import MAX_LOG_RATIO, Batch, Unit, View
from tokensweep.methods.forking_tokens import RankBy, above_quantile, ranking, ranking_needs
from tokensweep.registry import component


class Estimator(StrEnum):
    """Estimate of KL(policy || reference) from a sampled token, with ``d = logprobs - ref_logprobs``."""

    k1 = "k1"  # d: unbiased, of either sign
    k2 = "k2"  # d^2 / 2: biased, never negative
    k3 = "k3"  # exp(-d) - 1 + d: unbiased, never negative


class Where(StrEnum):
    """Which tokens pay, by the ``quantile`` of the entropies of their rollout."""

    all = "all"
    certain = "certain"  # those up to the quantile
    uncertain = "uncertain"  # those above it
    random = "random"  # as many as certain, whatever their entropy


def divergence(estimator: Estimator, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The estimate for each token, [n] nats; ``d`` is held within ±20 nats."""
    d = (logprobs - ref_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator is Estimator.k1:
        return d
    return d.square() / 2 if estimator is Estimator.k2 else torch.expm1(-d) + d


def _check(coef: float) -> None:
    if coef < 0:
        raise ValueError(f"coef must be at least 0, got {coef:g}")


@component("method/regularizers", "kl")
@dataclass(frozen=True)
class KLPenalty(Regularizer):
    """``coef`` times the mean divergence from the reference over the tokens of the mini-batch, scalar.

    The gradient of ``k1`` in a loss is that of the log-likelihood, 0 in expectation on-policy: it adds noise
    and no penalty; ``k2`` has the gradient of the divergence on-policy, ``k3`` that of the reversed one.
    ``importance_weighted`` multiplies by the ratio to the old policy, through which a gradient flows: then
    ``k3`` is unbiased off-policy and its gradient is right (arXiv:2512.02556; TRL does so by default).
    Token weights do not matter here. Needs ``ref_logprobs``, a pass with the reference model.
    With ``where`` other than all the others pay 0 and stay in the denominator: certain are the tokens up to
    the ``quantile`` of their rollout's entropies (of ``policy``, interpolated linearly), the rest uncertain.
    Source: GRPO, arXiv:2402.03300: k3, coef 0.04, mean over rollouts of the mean over tokens; ``where`` and
    its quantile from Archer, arXiv:2507.15778. Departure: none.
    """

    coef: float = 0.04
    estimator: Estimator = Estimator.k3
    unit: Unit = Unit.rollout
    importance_weighted: bool = False
    where: Where = Where.all
    quantile: float = 0.8
    policy: Policy = Policy.old  # whose entropy

    def __post_init__(self) -> None:
        _check(self.coef)
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile must be in [0, 1], got {self.quantile:g}")

    @property
    def needs(self) -> frozenset[str]:
        """The reference, and what tells the tokens that pay."""
        ranked = frozenset() if self.where is Where.all else ranking_needs(self._rank_by, self.policy)
        return frozenset({"ref_logprobs"}) | ranked

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        """It pulls without a signal too; who pays depends on the other tokens of the rollout."""
        laws = TOKEN_LOCAL if self.where is Where.all else ROLLOUT_LOCAL
        return laws - {Guarantee.signal_only}

    def __call__(self, view: View) -> Tensor:
        estimate = divergence(self.estimator, view.logprobs, view.columns["ref_logprobs"])
        if self.importance_weighted:
            estimate = estimate * view.log_ratio.exp()
        if self.where is not Where.all:
            estimate = torch.where(self._pays(view), estimate, 0.0)
        return self.coef * view.mean(estimate, self.unit)

    def _pays(self, view: View) -> Tensor:
        """Tokens [n] bool that pay."""
        if self.where is Where.all:
            return torch.ones_like(view.weights, dtype=torch.bool)
        rank = ranking(view, by=self._rank_by, policy=self.policy)
        above = above_quantile(rank, view.rollout_of, quantile=self.quantile)
        return above if self.where is Where.uncertain else ~above

    @property
    def _rank_by(self) -> RankBy:
        return RankBy.random if self.where is Where.random else RankBy.entropy

    def metrics(self, view: View, log_ratio: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The share of tokens that pay, and the mean divergence of those and of the others, in nats."""
        pays = self._pays(view)
        estimate = divergence(self.estimator, view.logprobs, view.columns["ref_logprobs"])
        return {
            "paying_fraction": (pays.sum(), torch.ones_like(pays).sum()),
            "paying_divergence": (torch.where(pays, estimate, 0.0).sum(), pays.sum()),
            "free_divergence": (torch.where(pays, 0.0, estimate).sum(), (~pays).sum()),
        }

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """What tells the tokens apart, where all of them pay."""
        if self.where is not Where.all:
            return {"policy": "lots read no policy"} if self.where is Where.random else {}
        return dict.fromkeys(("quantile", "policy"), "all tokens pay; set where to certain or uncertain")


@component("method/token_rewards", "kl")
@dataclass(frozen=True)
class KLReward(TokenReward):
    """``-coef`` times the old policy's divergence from the reference, earned at each token, [N].

    A sequence-level advantage sees the sum over the rollout, REINFORCE++ what is still to come at a token.
    Needs ``ref_logprobs``.
    Source: RLOO (arXiv:2402.14740) and REINFORCE++ (arXiv:2501.03262) with k1; 0.03 is TRL's value for the
    former. Departure: none.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"ref_logprobs"})

    coef: float = 0.03
    estimator: Estimator = Estimator.k1

    def __post_init__(self) -> None:
        _check(self.coef)

    def __call__(self, batch: Batch) -> Tensor:
        columns = batch.columns
        return -self.coef * divergence(self.estimator, columns["old_logprobs"], columns["ref_logprobs"])
