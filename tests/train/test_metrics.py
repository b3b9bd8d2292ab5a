"""Metrics: sums over counts, and percentiles that are values of the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tokensweep.loss.method import Method, build_method
from tokensweep.loss.objective import Prepared, prepare
from tokensweep.loss.tables import pack
from tokensweep.train.metrics import (
    Stopwatch,
    Sums,
    kept_metrics,
    mismatch_metrics,
    percentile,
    policy_metrics,
)

Make = Callable[..., dict[str, Any]]


def test_a_ratio_of_sums_weighs_every_token_the_same() -> None:
    sums = Sums("loss")
    sums.add({"x": (torch.tensor(3.0), torch.tensor(3))})
    sums.add({"x": (torch.tensor(0.0), torch.tensor(1))})
    assert sums.ratios() == {"loss/x": 0.75}  # the mean of the two means would be 0.5


def test_a_ratio_over_nothing_is_left_out() -> None:
    sums = Sums("loss")
    sums.add({"x": (torch.tensor(0.0), torch.tensor(0))})
    assert sums.ratios() == {}


@pytest.mark.parametrize(
    ("percent", "expected"), [(1, 1.0), (20, 1.0), (21, 2.0), (50, 3.0), (80, 4.0), (100, 5.0)]
)
def test_a_percentile_is_the_smallest_value_that_enough_values_do_not_exceed(
    percent: int, expected: float
) -> None:
    assert percentile(torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0]), percent) == expected


def four_tokens(method: Method) -> Prepared:
    """Two rollouts of two tokens with entropies 3, 1, 0, 0."""
    batch = pack(
        [[1], [1]],
        completions=[[2, 3], [4, 5]],
        prompt_of=[0, 0],
        accuracy=[1.0, 0.0],
        truncated=[False, False],
        max_tokens=2,
    )
    entropy = torch.tensor([3.0, 1.0, 0.0, 0.0])
    return prepare(method, batch.with_columns(old_logprobs=-entropy, old_entropy=entropy))


def test_the_kept_share_of_entropy_is_that_of_the_tokens_with_a_weight(small_config: Make) -> None:
    method = build_method(small_config()["method"])
    prepared = replace(four_tokens(method), weights=torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert kept_metrics(method, prepared) == {"loss/kept_entropy_fraction": 0.75}  # 3 of 4 nats


def test_the_mean_entropy_is_over_all_trained_tokens(small_config: Make) -> None:
    metrics = policy_metrics(four_tokens(build_method(small_config()["method"])))
    assert metrics["entropy/mean"] == 1.0
    assert metrics["entropy/p50"] == 0.0
    assert metrics["entropy/p80"] == 3.0
    assert metrics["active_fraction"] == 1.0


def test_tokens_of_rollouts_without_a_signal_are_trained_on_and_not_updated(small_config: Make) -> None:
    # The first rollout has an active token and counts with both of its tokens, the second has none.
    prepared = four_tokens(build_method(small_config()["method"]))
    prepared = replace(prepared, active=torch.tensor([False, True, False, False]))
    assert policy_metrics(prepared)["tokens/updated"] == 2.0


def mismatch(ratios: list[float]) -> dict[str, float]:
    """The metrics where the trainer's probability is so many times the sampler's."""
    batch = pack(
        [[1]],
        completions=[[2] * len(ratios)],
        prompt_of=[0],
        accuracy=[1.0],
        truncated=[False],
        max_tokens=len(ratios),
    )
    sampler = torch.full((len(ratios),), -3.0, dtype=torch.float64)
    old = sampler + torch.tensor(ratios, dtype=torch.float64).log()
    return mismatch_metrics(batch.with_columns(old_logprobs=old, sampler_logprobs=sampler))


def test_the_divergence_of_sampler_and_trainer_is_the_mean_of_r_minus_1_minus_log_r() -> None:
    # 1: 0; 4: 4 - 1 - 1.386294 = 1.613706; 1/4: 1/4 - 1 + 1.386294 = 0.636294; 2: 2 - 1 - 0.693147 = 0.306853
    metrics = mismatch([1.0, 4.0, 0.25, 2.0])
    assert metrics["mismatch/kl"] == pytest.approx((1.613706 + 0.636294 + 0.306853) / 4, abs=1e-6)
    # |log r|: 0, 1.386294, 1.386294, 0.693147
    assert metrics["mismatch/mean_abs"] == pytest.approx(0.866434, abs=1e-6)
    assert metrics["mismatch/max"] == pytest.approx(1.386294, abs=1e-6)


def test_the_largest_ratio_is_that_of_a_token_that_the_sampler_underrates() -> None:
    assert mismatch([1.0, 4.0, 0.01])["mismatch/max_ratio"] == pytest.approx(4.0)
    assert mismatch([0.5, 0.01])["mismatch/max_ratio"] == pytest.approx(0.5)


def test_a_ratio_of_2_or_a_half_is_not_beyond_2x() -> None:
    assert mismatch([1.99, 0.51, 1.0, 1.0])["mismatch/beyond_2x"] == 0.0
    assert mismatch([2.01, 0.49, 1.0, 1.0])["mismatch/beyond_2x"] == 0.5


def test_without_a_gap_the_divergence_is_exactly_0() -> None:
    metrics = mismatch([1.0, 1.0])
    assert (metrics["mismatch/kl"], metrics["mismatch/max_ratio"], metrics["mismatch/max"]) == (0.0, 1.0, 0.0)


def test_tiny_gaps_do_not_drown_in_rounding() -> None:
    # r = exp(1e-5): r - 1 - log r = 1e-10 / 2 + 1e-15 / 6
    assert mismatch([math.exp(1e-5)])["mismatch/kl"] == pytest.approx(5e-11, rel=1e-4)


def test_a_ratio_beyond_all_bounds_stays_finite() -> None:
    metrics = mismatch([1e30])  # log r = 69
    assert metrics["mismatch/max_ratio"] == pytest.approx(math.exp(20))
    assert math.isfinite(metrics["mismatch/kl"])
    assert metrics["mismatch/max"] == pytest.approx(30 * math.log(10))


def test_a_stopwatch_adds_up_phases_also_when_they_fail() -> None:
    watch = Stopwatch()
    with watch.phase("a"):
        pass
    with pytest.raises(RuntimeError, match="broken"), watch.phase("a"):
        raise RuntimeError("broken")
    assert list(watch.seconds) == ["time/a_s"]
    assert watch.seconds["time/a_s"] > 0


def test_rollouts_drawn_by_a_rule_are_left_out_of_the_mismatch() -> None:
    batch = pack(
        [[1], [1]],
        completions=[[2], [4]],
        prompt_of=[0, 0],
        accuracy=[1.0, 0.0],
        truncated=[False, False],
        max_tokens=1,
    ).with_columns(old_logprobs=torch.tensor([-1.0, -1.0]), sampler_logprobs=torch.tensor([-1.5, -9.0]))
    assert mismatch_metrics(replace(batch, facts={"ruled": torch.tensor([0.0, 1.0])}))["mismatch/max"] == 0.5
    assert mismatch_metrics(replace(batch, facts={"ruled": torch.ones(2)})) == {}
