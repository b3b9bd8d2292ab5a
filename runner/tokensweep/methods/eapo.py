"""EAPO: advantages that grow with a token's entropy in its group, and the four quadrants behind it.

Source: He et al., arXiv:2604.11056 v1 (``paper`` below, read with its appendices); no code found. The second
version calls it HAPO, of which the abstract only was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from tokensweep.loss.slots import AdvantageShaper, Part, Policy, TokenWeight, check_scope
from tokensweep.loss.tables import Scope, View, sum_by
from tokensweep.methods.forking_tokens import by_segment
from tokensweep.registry import component


class Quadrant(StrEnum):
    """Polarity of the rollout and entropy of the token, against the mean of its group."""

    phr = "phr"  # positive, high: a right rollout, at or above the mean
    plr = "plr"  # positive, low
    nlr = "nlr"  # negative, low: a wrong rollout, below the mean
    nhr = "nhr"  # negative, high


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where the tokens of a view stand."""

    z: Tensor  # [n] float64, standardised entropy; 0 where the entropies of the segment are all equal
    high: Tensor  # [n] bool, at or above the mean of the segment
    right: Tensor  # [n] bool

    def inside(self, quadrant: Quadrant) -> Tensor:
        """Its tokens, [n] bool."""
        high = self.high if quadrant in (Quadrant.phr, Quadrant.nhr) else ~self.high
        return high & (self.right if quadrant in (Quadrant.phr, Quadrant.plr) else ~self.right)


@dataclass(frozen=True)
class EntropyInGroup(Part):
    """What both components below have in common: entropies, compared over the tokens of each ``scope``.

    Mean and standard deviation (of the population) over all tokens; those of weight 0 do not exist where the
    current policy is read. ``shuffled`` deals the entropies of a segment out at random among its tokens, by
    the column ``uniform``: the control that the paper lacks. Entropies in nats, not differentiated.
    """

    scope: Scope = Scope.group
    policy: Policy = Policy.old
    shuffled: bool = False

    def __post_init__(self) -> None:
        check_scope(self.scope, self.policy)

    @property
    def needs(self) -> frozenset[str]:
        """The entropy it reads, and the lots of ``shuffled``."""
        entropy = "entropy" if self.policy is Policy.current else "old_entropy"
        return frozenset({entropy, "uniform"} if self.shuffled else {entropy})

    def standing(self, view: View) -> Standing:
        """Standardised entropy and quadrant of each token."""
        segments, entropy = self._segments(view), view.entropy.double()
        if self.shuffled:
            entropy = _dealt(entropy, segments, lots=view.columns["uniform"])
        size = int(segments.max()) + 1 if segments.numel() else 0
        lowest, highest = (_extreme(entropy, segments, size=size, which=which) for which in ("amin", "amax"))
        count = torch.bincount(segments, minlength=size).clamp(min=1)
        mean = torch.where(lowest == highest, lowest, sum_by(entropy, segments, size=size) / count)
        centred = entropy - mean[segments]  # exactly 0 where all are equal, whatever the rounding of a mean
        std = (sum_by(centred.square(), segments, size=size) / count).sqrt()
        z = centred / torch.where(std > 0, std, 1.0)[segments]
        right = view.accuracy[view.rollout_of] >= 1
        return Standing(z=torch.where(self._there(view), z, 0.0), high=centred >= 0, right=right)

    def _there(self, view: View) -> Tensor:
        """Tokens that are compared, [n] bool."""
        return view.weights != 0 if self.policy is Policy.current else torch.ones_like(view.weights).bool()

    def _segments(self, view: View) -> Tensor:
        """Segment of each token, [n] int64; the tokens that do not exist have one of their own."""
        segments = view.segments(self.scope)
        last = segments.max() + 1 if segments.numel() else 0
        return torch.where(self._there(view), segments, last)

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """Share of the tokens (``phr_fraction``) and mean advantage (``phr_advantage``) of each quadrant."""
        if self.policy is Policy.current:
            return {}
        return {name: float(a) / int(b) for name, (a, b) in self._numbers(whole).items() if b > 0}

    def metrics(self, view: View, log_ratio: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The same where the current policy is read, which is not known before."""
        return self._numbers(view) if self.policy is Policy.current else {}

    def _numbers(self, view: View) -> dict[str, tuple[Tensor, Tensor]]:
        standing, there = self.standing(view), self._there(view)
        numbers = {}
        for quadrant in Quadrant:
            inside = standing.inside(quadrant) & there
            numbers[f"{quadrant}_fraction"] = (inside.sum(), there.sum())
            numbers[f"{quadrant}_advantage"] = (torch.where(inside, view.advantages, 0.0).sum(), inside.sum())
        return numbers


@component("method/advantage_shapers", "eapo")
@dataclass(frozen=True)
class EntropyScaledAdvantage(EntropyInGroup, AdvantageShaper):
    """Advantages plus a share of the token's standardised entropy, [n].

    ``A + strength * sign(A) * clip(z, -|A| / bound, |A| / bound)`` with ``z`` the entropy, standardised over
    all tokens of the group. So A is multiplied by ``1 ± strength / bound`` at most: uncertain tokens weigh
    more, whether praised or blamed, and no sign changes while ``strength < bound``. Equal entropies give A.
    Tokens in the quadrants of ``off`` keep A (the paper's ablation).
    Source: the paper: alpha (here ``strength``) 0.2, phi (``bound``) 2. Departures: the paper does not say
    whose entropy is meant; by default the old policy's, as mini-batches split groups, else the current one's
    in each micro-batch (``scope=micro``, ``policy=current``). Nor which standard deviation: the population's.
    Raises ValueError for the current policy in a scope other than micro.
    """

    strength: float = 0.2  # alpha
    bound: float = 2.0  # phi
    off: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_quadrants("off", self.off)
        if self.strength < 0 or self.bound <= 0:
            raise ValueError(
                f"strength must be at least 0 and bound above 0, got {self.strength:g} and {self.bound:g}"
            )

    def __call__(self, view: View) -> Tensor:
        standing, advantages = self.standing(view), view.advantages
        limit = advantages.abs().double() / self.bound
        bonus = (self.strength * standing.z.clamp(-limit, limit)).to(advantages.dtype)
        shaped = advantages + advantages.sign() * bonus
        return torch.where(_any_of(standing, self.off), advantages, shaped)


@component("method/token_weights", "quadrant")
@dataclass(frozen=True)
class QuadrantWeight(EntropyInGroup, TokenWeight):
    """1 for the tokens in the quadrants of ``keep`` and 0 for the others, [n].

    With ``token_mean`` all tokens stay in the denominator, as in the paper: the losses of the four quadrants
    add up to the loss of all tokens. Positive are the rollouts of grade 1, the paper's reward of 1.
    Source: the paper, quadrant-isolated training. Departures: as for the advantages.
    Raises ValueError for the current policy in a scope other than micro.
    """

    keep: tuple[str, ...] = ("phr",)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_quadrants("keep", self.keep)
        if not self.keep:
            raise ValueError("keep must name a quadrant, got none: nothing would be trained")

    def __call__(self, view: View) -> Tensor:
        return _any_of(self.standing(view), self.keep).to(view.advantages.dtype)


def _any_of(standing: Standing, names: tuple[str, ...]) -> Tensor:
    """Tokens in one of the quadrants, [n] bool."""
    inside = torch.zeros_like(standing.high)
    for name in names:
        inside = inside | standing.inside(Quadrant(name))
    return inside


def _check_quadrants(field: str, names: tuple[str, ...]) -> None:
    known = [str(quadrant) for quadrant in Quadrant]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{field} must name quadrants out of {', '.join(known)}, got {', '.join(unknown)}")


def _extreme(x: Tensor, segments: Tensor, *, size: int, which: str) -> Tensor:
    """The smallest (``amin``) or largest (``amax``) of each segment, [S]; 0 where it is empty."""
    return x.new_zeros(size).scatter_reduce(0, segments, x, which, include_self=False)


def _dealt(x: Tensor, segments: Tensor, *, lots: Tensor) -> Tensor:
    """The values of each segment dealt out among its tokens, [n]: the least to the least lot, and so on."""
    dealt = torch.empty_like(x)
    dealt[by_segment(lots, segments)] = x[by_segment(x, segments)]
    return dealt
