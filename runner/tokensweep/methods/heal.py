"""HEAL: few target problems borrow exploration from a general domain, rewarded for similar entropy dynamics.

The mixing itself is data, see tokensweep.problems.mixture and ``data=mixed``.
Source: Liu et al., arXiv:2604.17928 (``note`` below, a detailed one), and the authors' code, a fork of verl
(``code``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import RewardTerm
from tokensweep.loss.tables import Batch, View
from tokensweep.problems import Mixed, ProblemSource
from tokensweep.problems.mixture import DOMAINS, TARGET
from tokensweep.registry import component

if TYPE_CHECKING:
    from tokensweep.train.collect import Trial


class Distance(StrEnum):
    """How far the entropies of one rollout are from those of another."""

    shape = "shape"  # KL of their softmax over positions: where the entropy is, not how much
    level = "level"  # mean difference, nats: how much, and where


class ApplyTo(StrEnum):
    """Which rollouts can earn the bonus."""

    target = "target"
    both = "both"


@dataclass(frozen=True)
class Neighbours:
    """Distance of every rollout to the nearest other one of each domain, [R]; infinite if there is none."""

    target: Tensor
    general: Tensor


@component("method/reward_terms", "entropy_dynamics")
@dataclass(frozen=True)
class EntropyDynamicsReward(RewardTerm):
    """A bonus of 1 for rollouts whose entropies go like those of the other domain, [R].

    A target rollout gets it where the nearest general rollout is nearer than the nearest other target one;
    a general one, with ``apply_to=both``, where a target rollout is as near as the nearest other general one.
    Rollouts of at most ``min_len`` tokens get 0, and are compared with. The distance of i to j, from their
    entropies H over the tokens (old policy, nats): the shorter sequence is stretched to the length of the
    longer one (nearest neighbour); ``shape`` takes ``P = softmax_t(H_t)`` of both and ``KL(P_i || P_j)``,
    ``level`` the mean of ``|H_i,t - H_j,t|``. A single domain in the batch gives no bonus.
    Costs R^2 L operations for R rollouts of L tokens in double precision, once, and again for the metrics.

    Source: the code, in all of this but ``level``: with ``shape`` a constant added to all entropies of a
    rollout changes nothing, though the note says that magnitude counts, too: ``level`` is our reading.
    The note has no bonus for general rollouts (``apply_to=target``). Siblings, other rollouts of the same
    prompt, are neighbours in the code, which makes the bonus rarer; ``exclude_siblings`` leaves them out.
    Departure: entropies of the whole distribution, where the code sums over the 20 likeliest tokens that its
    engine reports, without normalising, a lower bound.
    """

    weight: float = 1.0
    min_len: int = 50
    apply_to: ApplyTo = ApplyTo.both
    exclude_siblings: bool = False
    distance: Distance = Distance.shape

    needs: ClassVar[frozenset[str]] = frozenset({"old_entropy"})

    def __post_init__(self) -> None:
        if self.min_len < 0:
            raise ValueError(f"min_len must be at least 0, got {self.min_len}")

    def check_source(self, source: ProblemSource) -> None:
        """It compares two domains."""
        if not (isinstance(source, Mixed) and set(source.domains) == set(DOMAINS)):
            raise ValueError(
                "the entropy dynamics reward must compare problems of two domains, got "
                f"{type(source).__name__} without any: take data=mixed, with data@data.target=NAME and "
                "data@data.general=NAME"
            )

    def facts(self, trial: Trial) -> Mapping[str, float]:
        """Whether the problem is of the target."""
        return {"is_target": float(trial.problem.domain == TARGET)}

    def __call__(self, batch: Batch) -> Tensor:
        near = self._nearest(batch.columns["old_entropy"], batch)
        return self._bonus(near, batch).to(batch.accuracy.dtype)

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """Per domain: share with the bonus, accuracy, entropy in nats, and distances to both domains."""
        near = self._nearest(whole.entropy, whole)
        bonus = self._bonus(near, whole)
        entropy = whole.by_rollout(whole.entropy) / whole.lengths.clamp(min=1)
        told: dict[str, float] = {}
        for name, member in (("target", _is_target(whole)), ("general", ~_is_target(whole))):
            if not member.any():
                continue
            told |= {
                f"{name}/bonus_fraction": float(bonus[member].double().mean()),
                f"{name}/accuracy": float(whole.accuracy[member].mean()),
                f"{name}/entropy": float(entropy[member].mean()),
            }
            for other, distance in (("target", near.target), ("general", near.general)):
                known = distance[member & distance.isfinite()]
                if known.numel():
                    told[f"{name}/nearest_{other}"] = float(known.mean())
        return told

    def _nearest(self, entropy: Tensor, of: Batch | View) -> Neighbours:
        barred = torch.eye(of.lengths.numel(), dtype=torch.bool, device=entropy.device)
        if self.exclude_siblings:
            barred = of.prompt_of[:, None] == of.prompt_of
        distances = pairwise(entropy, of.lengths, distance=self.distance)
        distances = torch.where(barred, torch.inf, distances)
        target = _is_target(of)
        to = [torch.where(member, distances, torch.inf).amin(1) for member in (target, ~target)]
        return Neighbours(*to)

    def _bonus(self, near: Neighbours, of: Batch | View) -> Tensor:
        """Rollouts [R] bool with the bonus."""
        target = _is_target(of)
        earned = target & (near.target > near.general)
        if self.apply_to is ApplyTo.both:
            earned |= ~target & near.target.isfinite() & (near.target <= near.general)
        return earned & (of.lengths > self.min_len)


def pairwise(entropy: Tensor, lengths: Tensor, *, distance: Distance) -> Tensor:
    """Distance of every rollout (row) to every other (column), [R, R] float64, nats.

    ``entropy`` [N] nats lies rollout behind rollout, ``lengths`` [R] says how many tokens each has; rollouts
    without tokens are infinitely far from all. One pass over the different lengths, in each of which all that
    is not longer is stretched to it.
    """
    count, end = lengths.numel(), lengths.cumsum(0)
    result = torch.full((count, count), torch.inf, dtype=torch.float64, device=entropy.device)
    for length in sorted(set(lengths.tolist()) - {0}):
        others = ((lengths <= length) & (lengths > 0)).nonzero().squeeze(1)
        stretched = entropy.double()[_stretched(end[others] - lengths[others], lengths[others], length)]
        if distance is Distance.shape:
            stretched = stretched.log_softmax(1)
        between = _kl if distance is Distance.shape else _mean_gap
        for place in (lengths[others] == length).nonzero().squeeze(1).tolist():
            row = others[place]
            result[row, others], result[others, row] = between(stretched[place], stretched)
    return result


def _stretched(first: Tensor, lengths: Tensor, length: int) -> Tensor:
    """Rows [r, length] of the token table of some rollouts, repeated so that each has ``length`` tokens."""
    position = torch.arange(length, device=first.device)
    return first[:, None] + (position * lengths[:, None]).div(length, rounding_mode="floor")


def _kl(one: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Divergences [r] of one distribution [L] from others [r, L], all as logarithms, and of them from it."""
    gap = one - others  # 0 to the bit between equal sequences, so that ties are ties
    return (one.exp() * gap).sum(1).clamp(min=0), (others.exp() * -gap).sum(1).clamp(min=0)


def _mean_gap(one: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance [r] of one sequence [L] to others [r, L], the same in both directions."""
    gap = (one - others).abs().mean(1)
    return gap, gap


def _is_target(of: Batch | View) -> Tensor:
    """Rollouts [R] bool of the target domain."""
    return of.facts["is_target"] > 0
