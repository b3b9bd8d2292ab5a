"""STAPO: rare tokens of right answers, sampled where the policy was sure of another one, are silenced.

Source: Liu et al., arXiv:2602.15620 v5 (``paper`` below); no code was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from tokensweep.loss.slots import Guarantee, Policy, TokenWeight, check_scope
from tokensweep.loss.tables import Scope, View
from tokensweep.methods.steer import order_in_segments
from tokensweep.registry import component


class Silenced(StrEnum):
    """Which of the rare tokens lose their weight."""

    low = "low"  # those of low entropy: the spurious ones
    high = "high"  # as many of the highest entropy: an ablation of the paper
    random = "random"  # as many, whatever their entropy: likewise


class Pool(StrEnum):
    """The tokens whose entropies the quantile is of."""

    rare = "rare"  # the candidates themselves
    all = "all"


@component("method/token_weights", "spurious")
@dataclass(frozen=True)
class SpuriousWeight(TokenWeight):
    """0 for spurious tokens and 1 for all others, [n].

    Candidates are the tokens with A > 0 and ``p < probability``; of them those lose their weight whose
    entropy is below the ``quantile`` of the pool's entropies in their segment of ``scope``: with ``low`` the
    bottom share, with ``high`` as many from the top, with ``random`` as many by the column ``uniform``. The
    quantile is interpolated; who reaches it stays, so a lone candidate does. quantile null silences every
    candidate, probability 0 none. Not differentiated.

    Source: the paper, its S2T mask: probability 0.002 and quantile 0.75 of the rare tokens of right answers
    in each mini-batch. v1 says 0.8 and not of which tokens; ``pool=all`` is its other reading, which silences
    nearly all candidates. Notes on v1 disagree about the direction, v5 states the bottom share. Departure:
    the old policy says how likely and how sure; the paper looks at the policy of each update, which here is
    known inside a micro-batch only (``scope=micro``, ``policy=current``). The denominator of the kept tokens
    is the aggregate's: ``selected_mean``.
    Raises ValueError for the current policy in a scope other than micro.
    """

    probability: float = 0.002  # tau_p
    quantile: float | None = 0.75  # q
    silence: Silenced = Silenced.low
    pool: Pool = Pool.rare
    scope: Scope = Scope.mini
    policy: Policy = Policy.old

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {self.probability:g}")
        if self.quantile is not None and not 0 <= self.quantile <= 1:
            raise ValueError(
                f"quantile must be in [0, 1], or null for all rare tokens, got {self.quantile:g}"
            )
        check_scope(self.scope, self.policy)

    @property
    def needs(self) -> frozenset[str]:
        """The entropy, or the random numbers in its place."""
        if self.quantile is None:
            return frozenset()
        if self.silence is Silenced.random:
            return frozenset({"uniform"})
        return frozenset({"entropy" if self.policy is Policy.current else "old_entropy"})

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        """A weight makes no gradient; the quantile is that of the whole segment."""
        return frozenset({Guarantee.signal_only})

    def __call__(self, view: View) -> Tensor:
        rare = self._rare(view) & (view.weights != 0)
        if self.quantile is not None:
            pool = rare if self.pool is Pool.rare else view.weights != 0
            score = self._score(view)
            bound = quantile_of_segments(score, view.segments(self.scope), among=pool, order=self.quantile)
            rare = rare & (score < bound)
        return torch.where(rare, 0.0, 1.0).to(view.advantages.dtype)

    def _rare(self, view: View) -> Tensor:
        limit = math.log(self.probability) if self.probability > 0 else -math.inf
        return (view.advantages > 0) & (view.logprobs < limit)

    def _score(self, view: View) -> Tensor:
        """What the silenced have little of, [n]."""
        if self.silence is Silenced.random:
            return view.columns["uniform"]
        return view.entropy if self.silence is Silenced.low else -view.entropy

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """Shares of tokens that are rare in right answers, and silenced; entropy of silenced and spared."""
        if self.policy is Policy.current:
            return {}
        rare = self._rare(whole)
        silenced = rare & (whole.weights == 0)
        shares = {"rare": float(rare.double().mean()), "silenced": float(silenced.double().mean())}
        if whole.entropy.numel() == 0:
            return shares
        chosen = {"silenced_entropy": silenced, "spared_entropy": rare & ~silenced}
        means = {name: float(whole.entropy[rows].mean()) for name, rows in chosen.items() if rows.any()}
        return shares | means

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """What the quantile is of, without a quantile."""
        if self.quantile is not None:
            return {}
        reason = "without a quantile every rare token of a right answer is silenced"
        return dict.fromkeys(("silence", "pool", "scope"), reason)


def quantile_of_segments(x: Tensor, segments: Tensor, *, among: Tensor, order: float) -> Tensor:
    """Interpolated quantile of ``x`` [n] over the rows ``among`` [n] bool of each row's segment, [n].

    As ``torch.quantile``; -inf in a segment without such rows.
    """
    size = int(segments.max()) + 1 if segments.numel() else 0
    inside = segments[among]
    values = x[among]
    values = values[order_in_segments(values, inside)]
    counts = torch.bincount(inside, minlength=size)
    some = counts > 0
    place = order * (counts[some] - 1).double()
    below = (counts.cumsum(0) - counts)[some] + place.floor().long()
    above = (counts.cumsum(0) - counts)[some] + place.ceil().long()
    found = x.new_full((size,), -torch.inf)
    found[some] = torch.lerp(values[below], values[above], (place - place.floor()).to(x.dtype))
    return found[segments]
