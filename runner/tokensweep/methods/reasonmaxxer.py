"""ReasonMaxxer: right and wrong rollouts of the base model, contrasted where the base model was undecided.

The loss is ``-sum_t D_t A_i log pi_t / sum_t D_t + 0.2 KL(base || pi)`` per rollout: D marks the tokens at
which the frozen base model's entropy was above a threshold, the divergence is taken on all others.
Source: Akgül et al., arXiv:2605.06241 (``paper`` below) and github.com/farukakgul/ReasonMaxxer of 8 May 2026
(``code``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import (
    ROLLOUT_LOCAL,
    TOKEN_LOCAL,
    AdvantageShaper,
    Aggregate,
    Guarantee,
    Policy,
    Ratio,
    Regularizer,
    TokenWeight,
)
from tokensweep.loss.tables import View
from tokensweep.registry import component


@component("method/token_weights", "base_entropy")
@dataclass(frozen=True)
class BaseEntropyGate(TokenWeight):
    """1 for the tokens at which the frozen base model's entropy is above ``threshold`` nats, else 0, [n].

    Full vocabulary, at the sampling temperature, so of logits as they are where that is 1. It does not
    change while the policy is trained. Needs ``ref_entropy``, a pass with the reference model.
    Source: the code, tau 1.4 in its example; the paper finds 1.0 to 2.2 alike. Departure: one threshold for
    right and wrong rollouts (the code can have two; its recipe has one).
    """

    policy: ClassVar[Policy] = Policy.old
    needs: ClassVar[frozenset[str]] = frozenset({"ref_entropy"})

    threshold: float = 1.4  # tau

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ValueError(f"threshold must be at least 0 nats, got {self.threshold:g}")

    def __call__(self, view: View) -> Tensor:
        return (view.columns["ref_entropy"] > self.threshold).to(view.advantages.dtype)

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """``share`` of tokens that decide, their mean entropy, and of rollouts without any.

        ``base_entropy`` is the base model's mean on them, ``own_entropy`` that of the policy before the
        update: it falls below as the policy makes up its mind.
        """
        gate = whole.columns["ref_entropy"] > self.threshold
        values = {
            "share": float(gate.double().mean()),
            "rollouts_without": float((whole.by_rollout(gate.long()) == 0).double().mean()),
        }
        if bool(gate.any()):
            values["base_entropy"] = float(whole.columns["ref_entropy"][gate].mean())
            values["own_entropy"] = float(whole.columns["old_entropy"][gate].mean())
        return values


@component("method/advantage_shapers", "clipped")
@dataclass(frozen=True)
class ClippedAdvantage(AdvantageShaper):
    """Advantages held within ``-bound`` and ``bound``, negative ones times ``negative``, [n].

    With the population standard deviation a right rollout of pass rate p has ``sqrt((1 - p) / p)``, so 2.5
    binds below p = 1 / 7.25 and, for wrong ones, above 1 - 1 / 7.25.
    Source: the code (2.5, then beta_neg = 1). Departure: with ``negative`` 0, its positive-only ablation,
    wrong rollouts count as without a decision, so that the divergence holds all of their tokens.
    """

    policy: ClassVar[Policy] = Policy.old

    bound: float = 2.5
    negative: float = 1.0  # beta_neg

    def __post_init__(self) -> None:
        if self.bound <= 0 or self.negative < 0:
            raise ValueError(
                f"bound must be positive and negative at least 0, got {self.bound:g} and {self.negative:g}"
            )

    def __call__(self, view: View) -> Tensor:
        held = view.advantages.clamp(-self.bound, self.bound)
        return torch.where(held < 0, self.negative * held, held)

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """Share of tokens whose advantage is at a bound."""
        at_bound = (whole.advantages >= self.bound) | (whole.advantages <= -self.negative * self.bound)
        return {"bound_share": float((at_bound & (whole.advantages != 0)).double().mean())}


@component("method/ratio", "none")
@dataclass(frozen=True)
class NoRatio(Ratio):
    """A log ratio of 0 whose gradient is that of the log-probability, [n] nats: ``log pi - sg(log pi)``.

    Every ratio is 1 and no clip binds, whoever drew the token and however far the policy has gone: the
    gradient of ``A exp(log_ratio)`` is that of ``A log pi``.
    Source: the code, whose loss has no importance weight. Departure: none in the gradient; the value of the
    loss is -A and not that of the cross-entropy.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    def __call__(self, view: View) -> Tensor:
        return view.logprobs - view.logprobs.detach()


@component("method/aggregate", "selected_rollout_mean")
@dataclass(frozen=True)
class SelectedRolloutMean(Aggregate):
    """Mean over rollouts of the mean over the selected tokens of each: ``1/R sum_i sum_t w x / sum_t w``.

    Selected are tokens with a weight and an advantage; R counts the rollouts of the mini-batch, also those
    without a selected token.
    Source: the code, batches of one rollout under gradient accumulation. Departure: none.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = ROLLOUT_LOCAL

    def __call__(self, view: View, objective: Tensor) -> Tensor:
        weights = torch.where(view.signal, view.weights, 0.0)
        total = view.by_rollout(weights)
        mean = view.by_rollout(weights * objective) / torch.where(total > 0, total, 1.0)
        return mean.sum() / view.totals.rollouts


@component("method/regularizers", "kl_anchor")
@dataclass(frozen=True)
class KLAnchor(Regularizer):
    """``coef`` times the mean over rollouts of KL(base || policy) over their other tokens, scalar.

    ``sum_v p_base(v) log(p_base(v) / pi(v))`` over the full vocabulary, at every token without weight or
    advantage; with ``everywhere`` at all tokens. The mean is over those of each rollout, then over the
    rollouts of the mini-batch. Needs ``ref_divergence``: a forward of the reference beside each one of the
    policy.
    Source: the code, weight 0.2. Departure: completion tokens only, as with its ``kl_on_generated_only``;
    its recipe counts the prompt's positions, too.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = ROLLOUT_LOCAL - {Guarantee.signal_only}
    needs: ClassVar[frozenset[str]] = frozenset({"ref_divergence"})

    coef: float = 0.2
    everywhere: bool = False

    def __post_init__(self) -> None:
        if self.coef < 0:
            raise ValueError(f"coef must be at least 0, got {self.coef:g}")

    def __call__(self, view: View) -> Tensor:
        assert view.ref_divergence is not None  # it is in the needs
        held = self._held(view)
        total = view.by_rollout(torch.where(held, view.ref_divergence, 0.0))
        count = view.by_rollout(held.to(total.dtype))
        return self.coef * (total / count.clamp(min=1)).sum() / view.totals.rollouts

    def metrics(self, view: View, log_ratio: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Mean divergence, nats, of the tokens that are held and of those that are free to move."""
        assert view.ref_divergence is not None
        held = self._held(view)
        return {
            "held": (torch.where(held, view.ref_divergence, 0.0).sum(), held.sum()),
            "free": (torch.where(held, 0.0, view.ref_divergence).sum(), (~held).sum()),
        }

    def _held(self, view: View) -> Tensor:
        """Tokens [n] bool whose distribution must stay."""
        return torch.ones_like(view.signal) if self.everywhere else ~view.signal
