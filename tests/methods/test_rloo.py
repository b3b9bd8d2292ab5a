"""RLOO, arXiv:2402.14740: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch
from tokensweep.methods.dr_grpo import ConstantLength
from tokensweep.methods.grpo import GroupNormalisedAdvantage, Std
from tokensweep.methods.kl import KLReward
from tokensweep.methods.rloo import LeaveOneOutAdvantage

MakeBatch = Callable[..., Batch]


def test_each_rollout_is_compared_with_the_mean_of_the_others(batch_of: MakeBatch) -> None:
    # others of a right one: (0 + 0 + 1) / 3, of a wrong one: (1 + 0 + 1) / 3
    got = LeaveOneOutAdvantage()(batch_of([1, 0, 0, 1], lengths=[1] * 4))
    assert got.tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])


def test_it_is_the_centred_reward_times_g_over_g_minus_one(batch_of: MakeBatch) -> None:
    batch = batch_of([1, 0, 0.25, 0.5, 7, 1], lengths=[1, 2, 1, 1, 3, 1], prompt_of=[0, 0, 0, 1, 1, 1])
    centred = GroupNormalisedAdvantage(std=Std.none)(batch)
    torch.testing.assert_close(LeaveOneOutAdvantage()(batch), centred * 3 / 2)


def test_the_baseline_of_a_rollout_does_not_see_its_own_reward(batch_of: MakeBatch) -> None:
    before = LeaveOneOutAdvantage()(batch_of([1, 0, 0, 1], lengths=[1] * 4))
    after = LeaveOneOutAdvantage()(batch_of([5, 0, 0, 1], lengths=[1] * 4))
    assert (after - before)[0].item() == pytest.approx(4)  # the reward's own change, nothing else


@pytest.mark.parametrize("rewards", [[0.1, 0.1, 0.1], [0.7]])
def test_equal_rewards_and_a_lone_rollout_give_exactly_zero(
    rewards: list[float], batch_of: MakeBatch
) -> None:
    assert (LeaveOneOutAdvantage()(batch_of(rewards, lengths=[1] * len(rewards))) == 0).all()


def test_the_divergence_is_taken_off_the_reward(
    method_of: Callable[..., Method], batch_of: MakeBatch
) -> None:
    # k1 of two tokens of the first rollout is 0.5 each, coef 0.1: its reward is 1 - 0.1 = 0.9, the other's 0
    batch = batch_of([1, 0], lengths=[2, 1], ref_logprobs=[-0.5, -0.5, 0])
    rloo = replace(method_of("method=rloo"), token_rewards={"kl": KLReward(coef=0.1)})
    prepared = prepare(rloo, batch)
    assert prepared.batch.rewards.tolist() == pytest.approx([0.9, 0])
    assert prepared.advantages.tolist() == pytest.approx([0.9, 0.9, -0.9])
    assert prepared.batch.accuracy.tolist() == [1, 0]


def test_the_preset_holds_what_its_sources_say(method_of: Callable[..., Method]) -> None:
    rloo = method_of("method=rloo")
    assert rloo.advantage == LeaveOneOutAdvantage()
    assert rloo.token_rewards == {"kl": KLReward(coef=0.03)}
    assert rloo.needs() == {"old_logprobs", "ref_logprobs"}
    assert rloo.aggregate == ConstantLength(length=1)
    assert rloo.updates_per_batch == 2
