"""Distances between sets of vectors: against exact solutions, by hand, and against each other."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from tokensweep.loss.transport import (
    Sides,
    Windows,
    chamfer,
    cosine_of_means,
    euclidean,
    mmd,
    nearest_wasserstein,
    sinkhorn,
)


def exact(cost: Tensor) -> float:
    """The 1-Wasserstein distance of uniform sets of n and m vectors, by linear programming."""
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    marginals = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    solved = linprog(cost.flatten().numpy(), A_eq=np.concatenate([rows, columns]), b_eq=marginals)
    return float(solved.fun)


def whole(count: int, width: int | None = None) -> Windows:
    """One window over a table of ``count`` rows, padded to ``width``."""
    at = torch.arange(width or count)[None]
    return Windows(torch.where(at < count, at, 0), at < count)


def draw(count: int, size: int = 3, *, seed: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def transported(left: Tensor, right: Tensor, **how: Any) -> float:
    cost = euclidean(left, right)[None]
    rows, columns = (torch.ones(1, len(x), dtype=torch.bool) for x in (left, right))
    return float(sinkhorn(cost, rows, columns, **how)[0])


@pytest.mark.parametrize(("n", "m"), [(6, 6), (5, 8), (1, 7), (4, 4)])
def test_the_entropic_cost_tends_to_the_exact_distance(n: int, m: int) -> None:
    left, right = draw(n, seed=n), draw(m, seed=m + 10) + 0.5
    target = exact(euclidean(left, right))
    gaps = [transported(left, right, eps=eps, iterations=3000) - target for eps in (1.0, 0.1, 0.01)]
    assert all(gap >= -1e-9 for gap in gaps)
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(gaps))
    assert gaps[-1] < 0.005 * target


def test_the_entropic_cost_lies_within_its_bound() -> None:
    # 0 <= W_eps - W_1 <= eps log n for the cost of the converged plan
    left, right = draw(8, seed=1), draw(8, seed=2)
    target = exact(euclidean(left, right))
    for eps in (0.05, 0.5, 5.0, 50.0):
        assert 0 <= transported(left, right, eps=eps, iterations=3000) - target <= eps * math.log(8)


@pytest.mark.parametrize("iterations", [1, 2, 5, 20])
def test_a_plan_that_has_not_converged_is_still_no_cheaper_than_the_exact_one(iterations: int) -> None:
    for seed in range(5):
        left, right = draw(6, seed=seed), draw(9, seed=seed + 50)
        target = exact(euclidean(left, right))
        assert transported(left, right, eps=0.02, iterations=iterations) >= target - 1e-9


def test_vectors_on_a_line_by_hand() -> None:
    # {0, 2} to {1, 5}: 0 to 1 and 2 to 5 cost (1 + 3) / 2; one to two: half of 1 and half of 3
    at = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    assert transported(*at, eps=0.01, iterations=500) == pytest.approx(2.0, abs=1e-3)
    assert transported(at[0][1:], at[1], eps=0.01, iterations=10) == pytest.approx(2.0)


def test_padding_and_order_do_not_matter() -> None:
    left, right = draw(4, seed=3), draw(5, seed=4)
    plain = transported(left, right, eps=0.1, iterations=200)
    assert transported(left.flip(0), right[[2, 0, 4, 1, 3]], eps=0.1, iterations=200) == pytest.approx(plain)
    cost = euclidean(left, right)
    padded = torch.full((1, 7, 9), 3.0, dtype=torch.float64)
    padded[0, :4, :5] = cost
    inside = torch.arange(7)[None] < 4, torch.arange(9)[None] < 5
    assert float(sinkhorn(padded, *inside, eps=0.1, iterations=200)[0]) == pytest.approx(plain)


def test_scaling_vectors_and_eps_scales_the_distance() -> None:
    left, right = draw(5, seed=5), draw(5, seed=6)
    one = transported(left, right, eps=0.1, iterations=100)
    assert transported(7 * left, 7 * right, eps=0.7, iterations=100) == pytest.approx(7 * one)


def test_a_tiny_eps_gives_finite_numbers() -> None:
    left, right = draw(5, seed=7).float(), draw(5, seed=8).float()
    found = transported(left, right, eps=1e-30, iterations=50)
    assert exact(euclidean(left, right).double()) - 1e-5 <= found < 100


def windows(count: int, width: int, stride: int) -> Windows:
    starts = torch.arange(0, count - width + 1, stride)
    rows = starts[:, None] + torch.arange(width)
    return Windows(rows, torch.ones_like(rows, dtype=torch.bool))


def sides(*, seed: int = 0) -> Sides:
    """Walks of 60 and 45 steps, so that neighbouring windows are near each other."""
    left, right = draw(60, seed=seed).cumsum(0), draw(45, seed=seed + 1).cumsum(0)
    return Sides(left=left, right=right, left_windows=windows(60, 8, 4), right_windows=windows(45, 8, 4))


def test_pruning_by_the_distance_of_means_changes_nothing() -> None:
    for seed in range(4):
        both = [
            nearest_wasserstein(sides(seed=seed), eps=0.3, iterations=30, prune=prune)
            for prune in (True, False)
        ]
        for pruned, full in zip(*both, strict=True):
            torch.testing.assert_close(pruned, full)


def test_pruning_leaves_most_pairs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(cost: Tensor, *rest: Tensor, **how: Any) -> Tensor:
        made.append(len(cost))
        return sinkhorn(cost, *rest, **how)

    monkeypatch.setattr("tokensweep.loss.transport.sinkhorn", counted)
    one = sides(seed=2)
    nearest_wasserstein(one, eps=0.3, iterations=30)
    assert sum(made) < 0.5 * len(one.left_windows.rows) * len(one.right_windows.rows)


def test_the_nearest_window_is_the_smallest_of_all_exact_distances() -> None:
    both = sides(seed=3)
    costs = torch.tensor(
        [[exact(both.cost[i][:, j]) for j in both.right_windows.rows] for i in both.left_windows.rows],
        dtype=torch.float64,
    )
    left, right = nearest_wasserstein(both, eps=0.02 * both.median_cost, iterations=500)
    torch.testing.assert_close(left, costs.amin(1), rtol=0.05, atol=0)
    torch.testing.assert_close(right, costs.amin(0), rtol=0.05, atol=0)


def test_chamfer_is_the_mean_of_the_nearest_vectors_both_ways() -> None:
    # {0, 2} and {1, 5}: 1 and 1 there, 1 and 3 back: (1 + 2) / 2
    both = Sides(
        left=torch.tensor([[0.0], [2.0]]),
        right=torch.tensor([[1.0], [5.0]]),
        left_windows=whole(2, 3),
        right_windows=whole(2),
    )
    assert float(chamfer(both)) == pytest.approx(1.5)


def test_chamfer_is_never_above_wasserstein() -> None:
    both = sides(seed=4)
    for (i, rows), (j, columns) in itertools.product(
        enumerate(both.left_windows.rows[::5]), enumerate(both.right_windows.rows[::5])
    ):
        assert float(chamfer(both)[5 * i, 5 * j]) <= exact(both.cost[rows][:, columns]) + 1e-9


def test_mmd_by_hand_and_of_equal_sets() -> None:
    # one vector against one at the median distance: 1 + 1 - 2 exp(-1/2), and its root
    single = Sides(
        left=torch.tensor([[0.0]]),
        right=torch.tensor([[3.0]]),
        left_windows=whole(1),
        right_windows=whole(1, 2),
    )
    assert float(mmd(single)) == pytest.approx(math.sqrt(2 - 2 * math.exp(-0.5)), abs=1e-6)
    same = draw(5, seed=9)
    equal = Sides(left=same, right=same.flip(0), left_windows=whole(5), right_windows=whole(5))
    assert float(mmd(equal)) == pytest.approx(0, abs=1e-7)


def test_the_cosine_is_that_of_the_means() -> None:
    # means (1, 0) and (0, 2): at right angles; (1, 0) and (-1, 0): opposite
    right_angle = Sides(
        left=torch.tensor([[1.0, 1.0], [1.0, -1.0]]),
        right=torch.tensor([[0.0, 2.0]]),
        left_windows=whole(2),
        right_windows=whole(1),
    )
    assert float(cosine_of_means(right_angle)) == pytest.approx(1.0)
    opposite = Sides(
        left=right_angle.left,
        right=torch.tensor([[-1.0, 0.0]]),
        left_windows=whole(2),
        right_windows=whole(1),
    )
    assert float(cosine_of_means(opposite)) == pytest.approx(2.0)


def test_the_median_cost_is_that_of_a_sample_at_even_steps() -> None:
    left, right = draw(1300, 2, seed=10), draw(20, 2, seed=11)
    both = Sides(left=left, right=right, left_windows=whole(1300), right_windows=whole(20))
    assert both.median_cost == float(torch.cdist(left[::3], right).median())
