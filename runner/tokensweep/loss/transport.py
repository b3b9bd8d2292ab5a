"""Distances between sets of vectors that are windows of two tables, for all pairs or the nearest ones.

A table of costs between the vectors of both sides is made once; a window is a set of its rows or columns, so
overlapping windows cost no distance twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

_AT_ONCE = 1 << 24  # numbers of the pieces that exist at a time, 64 MB in float32
_SLACK = 1 - 1e-4  # a bound that rounding, in float32, cannot lift above the distance
_SAMPLED = 512  # vectors of each side that the median cost is taken from


@dataclass(frozen=True)
class Windows:
    """Sets of rows of a table, all with the same weight per row."""

    rows: Tensor  # [s, w] int64, rows of the table
    inside: Tensor  # [s, w] bool, False behind the end of a set; every set has at least one row

    @property
    def sizes(self) -> Tensor:
        """Rows of each set, [s]."""
        return self.inside.sum(1)

    def averaging(self, like: Tensor) -> Tensor:
        """The matrix [s, t] that takes the mean of each set over the t rows of ``like``."""
        weight = (self.inside / self.sizes[:, None]).to(like.dtype)
        matrix = like.new_zeros(len(self.rows), len(like))
        return matrix.scatter_add(1, self.rows * self.inside, weight)


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Two tables of vectors and the windows in each."""

    left: Tensor  # [t, H]
    right: Tensor  # [u, H]
    left_windows: Windows
    right_windows: Windows
    cost: Tensor = field(init=False)  # [t, u] Euclidean

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", euclidean(self.left, self.right))

    @cached_property
    def median_cost(self) -> float:
        """The median cost, of at most 512 x 512 vectors at even steps."""
        steps = [-(-size // _SAMPLED) for size in self.cost.shape]
        return float(self.cost[:: steps[0], :: steps[1]].median())

    @cached_property
    def means(self) -> tuple[Tensor, Tensor]:
        """Mean vector of each window, [s, H] of the left and of the right."""
        left = self.left_windows.averaging(self.left) @ self.left
        return left, self.right_windows.averaging(self.right) @ self.right


def euclidean(left: Tensor, right: Tensor) -> Tensor:
    """Distances [t, u] between the rows of [t, H] and [u, H].

    On a GPU by matrix products, which puts equal vectors up to 1e-3 of their norm apart (not run on a GPU).
    """
    exact = left.device.type == "cpu"
    mode = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist"
    return torch.cdist(left, right, compute_mode=mode)


def sinkhorn(cost: Tensor, rows: Tensor, columns: Tensor, *, eps: float, iterations: int) -> Tensor:
    """Cost of the entropic transport plan between uniform sets, for each of b pairs, [b].

    ``cost`` [b, n, m]; ``rows`` [b, n] and ``columns`` [b, m] bool say which belong to the sets. Both
    potentials are updated ``iterations`` times in the log domain with regularisation ``eps``, in units of the
    cost; then the plan is rounded onto the exact marginals (Altschuler et al., arXiv:1705.09634, algorithm
    2), so that the result is that of a transport plan: never below the 1-Wasserstein distance, whatever the
    iterations, and within ``eps * log(size)`` above it at convergence. Between equal sets it is not exactly
    0, as the entropic plan spreads.
    """
    kernel = -cost / eps
    log_a, log_b = _log_uniform(rows, cost), _log_uniform(columns, cost)
    f, g = torch.zeros_like(log_a), torch.zeros_like(log_b)
    for _ in range(iterations):
        f = -(kernel + (g + log_b)[:, None, :]).logsumexp(2)
        g = -(kernel + (f + log_a)[:, :, None]).logsumexp(1)
    plan = (kernel + (f + log_a)[:, :, None] + (g + log_b)[:, None, :]).exp()
    return _rounded_cost(plan, cost, log_a.exp(), log_b.exp())


def _log_uniform(inside: Tensor, like: Tensor) -> Tensor:
    """Logarithm of equal weights on the members of each set, minus infinity elsewhere."""
    log_weight = -inside.sum(1, keepdim=True).to(like.dtype).log()
    return torch.where(inside, log_weight, -torch.inf)


def _rounded_cost(plan: Tensor, cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Cost [b] of the plan after rows and columns were cut to their marginals and the rest was spread."""
    plan = plan * _cut(a, plan.sum(2))[:, :, None]
    plan = plan * _cut(b, plan.sum(1))[:, None, :]
    left, right = a - plan.sum(2), b - plan.sum(1)
    total = left.sum(1).clamp(min=torch.finfo(cost.dtype).tiny)
    spread = torch.einsum("bn,bnm,bm->b", left, cost, right) / total
    return (plan * cost).sum((1, 2)) + spread


def _cut(wanted: Tensor, got: Tensor) -> Tensor:
    """Factor of at most 1 that brings ``got`` down to what is wanted."""
    return (wanted / got.clamp(min=torch.finfo(got.dtype).tiny)).clamp(max=1)


def nearest_wasserstein(
    sides: Sides, *, eps: float, iterations: int, prune: bool = True
) -> tuple[Tensor, Tensor]:
    """Distance of every window to the nearest one of the other side, [s] for the left and for the right.

    Distances as :func:`sinkhorn` has them. With ``prune`` pairs are left out whose means are further apart
    than the nearest pair that is known: the distance of means is a lower bound, so nothing changes.
    """
    left, right = sides.means
    bound = euclidean(left, right)
    found = torch.full_like(bound, torch.inf)
    if prune:  # first what is nearest by the bound, from both sides; then what could still be nearer
        first = torch.zeros_like(bound, dtype=torch.bool)
        first.scatter_(1, bound.argmin(1, keepdim=True), True)
        first.scatter_(0, bound.argmin(0, keepdim=True), True)
        _fill(found, first, sides, eps=eps, iterations=iterations)
        bound = _SLACK * bound
        rest = (bound < found.amin(1, keepdim=True)) | (bound < found.amin(0, keepdim=True))
        _fill(found, rest & ~first, sides, eps=eps, iterations=iterations)
    else:
        _fill(found, torch.ones_like(bound, dtype=torch.bool), sides, eps=eps, iterations=iterations)
    return found.amin(1), found.amin(0)


def _fill(found: Tensor, wanted: Tensor, sides: Sides, *, eps: float, iterations: int) -> None:
    """Write the distances of the wanted pairs into ``found`` [s, s'], which is the caller's own."""
    one, other = sides.left_windows, sides.right_windows
    size = max(1, _AT_ONCE // (one.rows.shape[1] * other.rows.shape[1]))
    for pairs in torch.split(wanted.nonzero(), size):
        i, j = pairs.unbind(1)
        cost = sides.cost[one.rows[i][:, :, None], other.rows[j][:, None, :]]
        found[i, j] = sinkhorn(cost, one.inside[i], other.inside[j], eps=eps, iterations=iterations)


def mmd(sides: Sides) -> Tensor:
    """Maximum mean discrepancy of all pairs of windows, [s, s'], in [0, sqrt(2)].

    Gaussian kernel whose width is the median cost; the biased estimate, which is 0 for equal sets.
    """
    width = 2 * max(sides.median_cost, torch.finfo(sides.cost.dtype).tiny) ** 2
    one = sides.left_windows.averaging(sides.left)
    other = sides.right_windows.averaging(sides.right)
    crossed = one @ (-sides.cost.square() / width).exp() @ other.T
    own = [
        ((weights @ (-euclidean(x, x).square() / width).exp()) * weights).sum(1)
        for weights, x in ((one, sides.left), (other, sides.right))
    ]
    return (own[0][:, None] + own[1] - 2 * crossed).clamp(min=0).sqrt()


def chamfer(sides: Sides) -> Tensor:
    """Mean of both directed distances of all pairs of windows, [s, s']; never above 1-Wasserstein.

    Directed: the mean over the vectors of one window of the distance to the nearest one of the other.
    """
    one = sides.left_windows.averaging(sides.left)
    other = sides.right_windows.averaging(sides.right)
    there = one @ _nearest_in(sides.cost, sides.right_windows)
    back = other @ _nearest_in(sides.cost.T, sides.left_windows)
    return (there + back.T) / 2


def _nearest_in(cost: Tensor, windows: Windows) -> Tensor:
    """Smallest cost [t, s] of each row of [t, u] to the columns of each window."""
    size = max(1, _AT_ONCE // (cost.shape[0] * windows.rows.shape[1]))
    pieces = [
        torch.where(inside, cost[:, rows], torch.inf).amin(2)
        for rows, inside in zip(
            torch.split(windows.rows, size), torch.split(windows.inside, size), strict=True
        )
    ]
    return torch.cat(pieces, 1)


def cosine_of_means(sides: Sides) -> Tensor:
    """1 minus the cosine between the mean vectors of all pairs of windows, [s, s'], in [0, 2]."""
    left, right = (torch.nn.functional.normalize(mean, dim=1) for mean in sides.means)
    return 1 - left @ right.T
