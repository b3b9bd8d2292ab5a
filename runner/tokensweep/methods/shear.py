"""SHEAR: tokens count by how far the hidden states around them are from rollouts that ended otherwise.

Source: Chen et al., arXiv:2604.23318 v1 (``paper`` below), read in a transcription of its equations,
algorithm and tables; no official code found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import AdvantageShaper, Policy
from tokensweep.loss.tables import View, sum_by
from tokensweep.loss.transport import Sides, Windows, chamfer, cosine_of_means, mmd, nearest_wasserstein
from tokensweep.registry import component

_MEASURED = 8  # groups whose weights are computed again for the metrics


class SpanDistance(StrEnum):
    """How far two spans are apart, as sets of hidden states."""

    wasserstein = "wasserstein"
    mmd = "mmd"
    chamfer = "chamfer"
    cosine = "cosine"  # of the means


class EpsUnit(StrEnum):
    """What the regularisation of the transport is a multiple of."""

    median_cost = "median_cost"  # between right and wrong tokens of the group
    one = "one"  # hidden-state units


class NormOf(StrEnum):
    """Whose mean norm of hidden states a distance is divided by."""

    group = "group"
    rollout = "rollout"


class Renorm(StrEnum):
    """Whether the weights are brought to a mean of 1."""

    none = "none"
    group_mean = "group_mean"
    rollout_mean = "rollout_mean"


@component("method/advantage_shapers", "span_divergence")
@dataclass(frozen=True)
class SpanDivergence(AdvantageShaper):
    """Advantages times a weight per token, [n]: ``A_i omega_it``, in groups with right and wrong rollouts.

    Spans are ``window`` tokens every ``stride``, until one reaches the end. A span's distance is that to the
    nearest span of any rollout with the other outcome; ``omega`` of a token is the largest distance of the
    spans that hold it, over the mean norm of the hidden states of the group (``norm_of``). Hidden states: the
    old policy's last layer after its final norm, as it enters the head, of the token itself. In groups with
    one outcome the weights are 1. Distances: 1-Wasserstein by Sinkhorn, or those of the ablation.

    Source: the paper, equations 2 and 4 and algorithm 1: window 100, stride 25, no renormalisation, so the
    size of a step changes with omega. Not stated, our choices: ``W_eps`` is the cost of the entropic plan;
    ``eps`` is 0.05 of the group's median cost with 50 iterations, which was up to 9 % above the exact
    distance of 100 random vectors (the paper's bound, eps log n = 20.8, means an eps of 1 to 10 hidden-state
    units: ``eps_unit=one``); spans stop where the first reaches the end; the MMD's kernel width is the median
    cost, Chamfer is the mean of both directions, and MMD and cosine, which have no unit, are not divided by
    the norm. Where an answer is written counts like any span.
    Costs, per group with T right and U wrong tokens: T U distances and up to (T / stride) (U / stride)
    transports; ``prune`` leaves out those that cannot be nearest, and changes nothing. Only the old policy's
    pass keeps hidden states, [N, H] on the device in the format of the products: tokensweep plan counts them.
    Raises ValueError for a stride above the window and numbers that are not positive.
    """

    policy: ClassVar[Policy] = Policy.old
    needs: ClassVar[frozenset[str]] = frozenset({"old_hidden"})

    window: int = 100  # w
    stride: int = 25  # s
    distance: SpanDistance = SpanDistance.wasserstein
    norm_of: NormOf = NormOf.group
    renorm: Renorm = Renorm.none
    eps: float = 0.05
    eps_unit: EpsUnit = EpsUnit.median_cost
    iterations: int = 50
    prune: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window:
            raise ValueError(
                f"stride must be in 1..window={self.window}, or tokens would be skipped, got {self.stride}"
            )
        if self.eps <= 0 or self.iterations < 1:
            raise ValueError(
                f"eps must be above 0 and iterations at least 1, got {self.eps:g} and {self.iterations}"
            )

    def inert(self, *, updates_per_batch: int) -> dict[str, str]:
        """What only the transport reads."""
        if self.distance is SpanDistance.wasserstein:
            return {}
        reason = f"distance={self.distance} makes no transport plan; take wasserstein"
        return dict.fromkeys(("eps", "eps_unit", "iterations", "prune"), reason)

    def __call__(self, view: View) -> Tensor:
        omega = torch.ones_like(view.advantages)
        for tokens, rollouts in _mixed_groups(view):
            omega[tokens] = self._weights(view, tokens, rollouts).to(omega.dtype)
        return view.advantages * omega

    def batch_metrics(self, whole: View) -> Mapping[str, float]:
        """Weights of the first eight groups with both outcomes: mean by outcome, and spread in a rollout."""
        groups = list(_mixed_groups(whole))
        told = {"mixed_groups": len(groups) / max(1, len(set(whole.prompt_of.tolist())))}
        if not groups:
            return told
        omega = torch.cat([self._weights(whole, *group).double() for group in islice(groups, _MEASURED)])
        tokens = torch.cat([tokens for tokens, _ in islice(groups, _MEASURED)])
        of = whole.rollout_of[tokens]
        right = _is_right(whole)[of]
        size = sum_by(torch.ones_like(omega), of, size=whole.num_rollouts).clamp(min=1)
        mean = sum_by(omega, of, size=whole.num_rollouts) / size
        spread = (sum_by((omega - mean[of]).square(), of, size=whole.num_rollouts) / size).sqrt()
        seen = mean > 0
        relative = (spread[seen] / mean[seen]).mean() if seen.any() else omega.new_zeros(())
        return {
            **told,
            "weight_mean": float(omega.mean()),
            "weight_right": float(omega[right].mean()),
            "weight_wrong": float(omega[~right].mean()),
            "spread_in_rollout": float(relative),
        }

    def _weights(self, view: View, tokens: Tensor, rollouts: Tensor) -> Tensor:
        """Omega [t] of the tokens of a group, which are rows of the view; ``rollouts`` [r] are its own."""
        hidden = view.columns["old_hidden"][tokens]
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        place = torch.searchsorted(rollouts, view.rollout_of[tokens])
        windows, span_of = spans(place, num_rollouts=len(rollouts), window=self.window, stride=self.stride)
        right = _is_right(view)[rollouts]
        distances = self._distances(hidden, windows, right_token=right[place], right_span=right[span_of])
        flat = windows.rows[windows.inside]
        spread = distances[:, None].expand(windows.rows.shape)[windows.inside]
        omega = hidden.new_zeros(len(tokens)).scatter_reduce(0, flat, spread, "amax")
        if self.distance in (SpanDistance.wasserstein, SpanDistance.chamfer):
            omega = omega / self._per_token(hidden.norm(dim=1), place, len(rollouts), self.norm_of.value)
        if self.renorm is Renorm.none:
            return omega
        mean = self._per_token(omega, place, len(rollouts), self.renorm.value.removesuffix("_mean"))
        return torch.where(mean > 0, omega / mean, omega)

    def _distances(
        self, hidden: Tensor, windows: Windows, *, right_token: Tensor, right_span: Tensor
    ) -> Tensor:
        """Distance [s] of every span to the nearest one with the other outcome."""
        inner = torch.where(right_token, right_token.cumsum(0), (~right_token).cumsum(0)) - 1
        own = Windows(inner[windows.rows], windows.inside)  # rows of the right or of the wrong tokens
        right, wrong = (Windows(own.rows[of], own.inside[of]) for of in (right_span, ~right_span))
        sides = Sides(
            left=hidden[right_token], right=hidden[~right_token], left_windows=right, right_windows=wrong
        )
        if self.distance is SpanDistance.wasserstein:
            unit = sides.median_cost if self.eps_unit is EpsUnit.median_cost else 1.0
            eps = max(self.eps * unit, torch.finfo(hidden.dtype).tiny)
            nearest = nearest_wasserstein(sides, eps=eps, iterations=self.iterations, prune=self.prune)
        else:
            matrix = _ALL_PAIRS[self.distance](sides)
            nearest = matrix.amin(1), matrix.amin(0)
        result = hidden.new_empty(len(right_span))
        result[right_span], result[~right_span] = nearest
        return result

    @staticmethod
    def _per_token(x: Tensor, place: Tensor, count: int, over: str) -> Tensor:
        """Mean of ``x`` [t] over the group, or over each token's rollout, [t]."""
        if over == "group":
            return x.mean().expand(x.shape)
        return (sum_by(x, place, size=count) / torch.bincount(place, minlength=count).clamp(min=1))[place]


_ALL_PAIRS = {SpanDistance.mmd: mmd, SpanDistance.chamfer: chamfer, SpanDistance.cosine: cosine_of_means}


def spans(place: Tensor, *, num_rollouts: int, window: int, stride: int) -> tuple[Windows, Tensor]:
    """The spans of rollouts as sets of token rows, and the rollout of each span [s].

    ``place`` [t] int64, non-decreasing, is the rollout of each token. A rollout of T tokens has
    ``1 + ceil(max(T - window, 0) / stride)`` spans, the last of which may be shorter; none without tokens.
    """
    lengths = torch.bincount(place, minlength=num_rollouts)
    width = min(window, int(lengths.max()))
    counts = 1 + -(-(lengths - window).clamp(min=0) // stride)
    counts = torch.where(lengths > 0, counts, 0)
    span_of = torch.repeat_interleave(torch.arange(num_rollouts, device=place.device), counts)
    number = torch.arange(len(span_of), device=place.device) - (counts.cumsum(0) - counts)[span_of]
    at = number[:, None] * stride + torch.arange(width, device=place.device)
    inside = at < lengths[span_of][:, None]
    first = (lengths.cumsum(0) - lengths)[span_of]
    return Windows((first[:, None] + at) * inside, inside), span_of


def _mixed_groups(view: View) -> Iterator[tuple[Tensor, Tensor]]:
    """Token rows and rollouts of every group in which both right and wrong rollouts have tokens."""
    right, some = _is_right(view), view.lengths > 0
    for prompt in sorted(set(view.prompt_of.tolist())):
        member = view.prompt_of == prompt
        if bool((member & some & right).any()) and bool((member & some & ~right).any()):
            yield member[view.rollout_of].nonzero().squeeze(1), member.nonzero().squeeze(1)


def _is_right(view: View) -> Tensor:
    """Rollouts [r] bool that the verifier accepts, whatever else is in their reward."""
    return view.accuracy == 1
