"""Micro-batches: a token budget that never splits a rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from tokensweep.loss.method import build_method
from tokensweep.loss.tables import pack
from tokensweep.train.batch import divide, fill_bins, trusting_trainer


def test_bins_are_filled_longest_first_and_stay_in_budget() -> None:
    # 6 opens a bin, 5 opens the next, 4 fits neither exactly: 6 + 4 = 10 fits, 5 + 3 = 8 fits, 2 joins 5 + 3.
    assert fill_bins([0, 1, 2, 3, 4], sizes=[3, 6, 2, 5, 4], budget=10) == [[1, 4], [0, 2, 3]]


def test_a_rollout_above_the_budget_has_a_bin_of_its_own() -> None:
    assert fill_bins([0, 1, 2], sizes=[2, 50, 3], budget=10) == [[1], [0, 2]]


def test_bins_hold_only_the_members() -> None:
    assert fill_bins([4, 2], sizes=[9, 9, 1, 9, 1], budget=5) == [[2, 4]]


def test_micro_batches_lie_inside_mini_batches_and_hold_every_rollout_once(
    small_config: Callable[..., dict[str, Any]],
) -> None:
    method = build_method(small_config(method__updates_per_batch=3)["method"])
    batch = pack(
        [[1, 2]] * 12,
        completions=[[3] * (1 + rollout % 4) for rollout in range(12)],
        prompt_of=[rollout // 4 for rollout in range(12)],
        accuracy=[float(rollout < 6) for rollout in range(12)],
        truncated=[False] * 12,
        max_tokens=4,
    )
    divided, plan = divide(batch, method=method, micro_tokens=9, seed=0)
    assert len(plan) == 3
    micros = [(mini, micro) for mini, micros in enumerate(plan) for micro in micros]
    assert torch.cat([micro.rollouts for _, micro in micros]).sort().values.tolist() == list(range(12))
    for number, (mini, micro) in enumerate(micros):
        assert set(divided.minibatch_of[micro.rollouts].tolist()) == {mini}
        assert set(divided.microbatch_of[micro.rollouts].tolist()) == {number}
        assert int((batch.lengths[micro.rollouts] + 2).sum()) <= 9
        # Only the middle group, rollouts 4 to 7, has both grades: they share a pack.
        mixed = [r for r in micro.rollouts.tolist() if 4 <= r < 8]
        rest = [r for r in micro.rollouts.tolist() if not 4 <= r < 8]
        assert [pack.tolist() for pack in micro.packs] == [part for part in (mixed, rest) if part]


def test_a_rollout_drawn_by_a_rule_takes_the_trainers_logprobs_for_the_samplers() -> None:
    batch = pack(
        [[1], [1]],
        completions=[[2, 3], [4]],
        prompt_of=[0, 0],
        accuracy=[1.0, 0.0],
        truncated=[False, False],
        max_tokens=2,
    ).with_columns(old_logprobs=torch.tensor([-1.0, -2.0, -3.0]), sampler_logprobs=torch.zeros(3))
    assert trusting_trainer(batch) is batch
    ruled = replace(batch, facts={"ruled": torch.tensor([1.0, 0.0])})
    assert trusting_trainer(ruled).columns["sampler_logprobs"].tolist() == [-1.0, -2.0, 0.0]
