"""GRPO, arXiv:2402.03300: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import Policies, example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import micro_loss, prepare
from tokensweep.loss.outcomes import Outcomes
from tokensweep.loss.tables import Batch
from tokensweep.methods.grpo import (
    GroupNormalisedAdvantage,
    PlainSampling,
    PPOClip,
    RolloutMean,
    ShuffledMinibatch,
    Std,
    TokenMean,
    TokenRatio,
    UniformAllocation,
    VerifierReward,
)

MakeBatch = Callable[..., Batch]

GRPO = Method(
    name="grpo",
    updates_per_batch=1,
    allocation=UniformAllocation(),
    sampling=PlainSampling(),
    reward_terms={"verifier": VerifierReward()},
    advantage=GroupNormalisedAdvantage(eps=0),
    minibatch=ShuffledMinibatch(),
    ratio=TokenRatio(),
    surrogate=PPOClip(),
    aggregate=RolloutMean(),
)


def policy(*ratios: float) -> Policies:
    logprobs = torch.tensor(ratios, dtype=torch.float64).log()
    return Policies(logprobs, torch.zeros_like(logprobs))


def gradient(method: Method, batch: Batch, now: Policies) -> Tensor:
    return loss_and_gradient(method, prepare(method, batch), now)[1]


def test_advantages_are_deviations_in_units_of_the_population_std(batch_of: MakeBatch) -> None:
    # rewards 1 0 0 1: mean 1/2, population std 1/2; second group 3 0 0: mean 1, std sqrt(6/3) = sqrt 2
    batch = batch_of([1, 0, 0, 1, 3, 0, 0], lengths=[2, 1, 1, 1, 1, 1, 1], prompt_of=[0, 0, 0, 0, 1, 1, 1])
    got = GroupNormalisedAdvantage(eps=0)(batch)
    low = -(2**-0.5)
    expected = [1.0, 1.0, -1.0, -1.0, 1.0, 2**0.5, low, low]  # the first rollout has two tokens
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_group_advantages_sum_to_zero_with_mean_square_one() -> None:
    batch = example_batch()
    by_rollout = batch.by_rollout(GroupNormalisedAdvantage(eps=0)(batch)) / batch.lengths
    torch.testing.assert_close(batch.by_prompt(by_rollout), torch.zeros(3, dtype=torch.float64))
    # four rollouts per group; the last group has equal rewards
    squares = torch.tensor([4.0, 4.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(batch.by_prompt(by_rollout**2), squares)


def test_the_sample_std_divides_by_one_less(batch_of: MakeBatch) -> None:
    # rewards 1 0 0 1: variance 4 * 0.25 / 3, so A = 0.5 / sqrt(1/3) = sqrt(3)/2
    got = GroupNormalisedAdvantage(std=Std.sample, eps=0)(batch_of([1, 0, 0, 1], lengths=[1] * 4))
    root = 3**0.5 / 2
    torch.testing.assert_close(got, torch.tensor([root, -root, -root, root], dtype=torch.float64))


def test_without_std_the_advantage_is_the_centred_reward(batch_of: MakeBatch) -> None:
    got = GroupNormalisedAdvantage(std=Std.none)(batch_of([3, 0, 0], lengths=[1] * 3))
    assert got.tolist() == [2, -1, -1]


def test_eps_is_added_to_the_std(batch_of: MakeBatch) -> None:
    # mean 1/2, std 1/2, eps 1/2: 0.5 / (0.5 + 0.5)
    got = GroupNormalisedAdvantage(eps=0.5)(batch_of([1, 0], lengths=[1, 1]))
    assert got.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("std", list(Std))
def test_equal_rewards_give_exactly_zero_in_spite_of_rounding(std: Std, batch_of: MakeBatch) -> None:
    batch = batch_of([0.1] * 7, lengths=[1] * 7)
    single = replace(batch, rewards=batch.rewards.float())
    assert (single.rewards.sum() / 7 != single.rewards[0]).item()  # the mean is rounded
    assert (GroupNormalisedAdvantage(std=std, eps=0)(single) == 0).all()


def test_a_group_of_one_rollout_gets_zero(batch_of: MakeBatch) -> None:
    got = GroupNormalisedAdvantage(std=Std.sample)(batch_of([1, 1, 0], lengths=[1] * 3, prompt_of=[0, 1, 1]))
    assert got[0] == 0
    assert got[1] > 0


def test_shifted_and_scaled_rewards_give_the_same_advantages(batch_of: MakeBatch) -> None:
    batch = batch_of([1, 0, 0.5], lengths=[1, 2, 3])
    moved = replace(batch, rewards=7 * batch.rewards - 3)
    advantage = GroupNormalisedAdvantage(eps=0)
    torch.testing.assert_close(advantage(moved), advantage(batch))


def test_on_policy_the_loss_is_zero_and_each_rollout_pulls_with_its_mean(batch_of: MakeBatch) -> None:
    # A = 1 and -1; two rollouts of 2 and 4 tokens: gradients -1/(2*2) and +1/(2*4)
    batch = batch_of([1, 0], lengths=[2, 4])
    loss, got = loss_and_gradient(GRPO, prepare(GRPO, batch), policy(1, 1, 1, 1, 1, 1))
    assert loss == 0
    assert got.tolist() == [-0.25, -0.25, 0.125, 0.125, 0.125, 0.125]


def test_token_mean_gives_every_token_the_same_pull(batch_of: MakeBatch) -> None:
    batch = batch_of([1, 0], lengths=[2, 4])
    got = gradient(replace(GRPO, aggregate=TokenMean()), batch, policy(1, 1, 1, 1, 1, 1))
    expected = torch.tensor([-1, -1, 1, 1, 1, 1], dtype=torch.float64) / 6
    torch.testing.assert_close(got, expected)


def test_the_gradient_vanishes_exactly_beyond_the_clip_on_the_side_of_the_advantage(
    batch_of: MakeBatch,
) -> None:
    # A = +1 for four tokens, -1 for four; inside, the gradient is -r A / (2 rollouts * 4 tokens)
    batch = batch_of([1, 0], lengths=[4, 4])
    got = gradient(GRPO, batch, policy(1.25, 1.15, 0.85, 0.75, 1.25, 1.15, 0.85, 0.75))
    expected = [0, -1.15, -0.85, -0.75, 1.25, 1.15, 0.85, 0]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64) / 8)


def test_clipped_names_the_tokens_without_gradient() -> None:
    batch = example_batch()
    now = near_old(batch)
    prepared = prepare(GRPO, batch)
    _, got = loss_and_gradient(GRPO, prepared, now)
    ratio = (now.logprobs - batch.columns["old_logprobs"]).exp()
    up, down = prepared.advantages > 0, prepared.advantages < 0
    assert torch.equal(got == 0, ~(up | down) | (up & (ratio > 1.2)) | (down & (ratio < 0.8)))


def test_shuffled_minibatches_are_even_and_follow_the_seed() -> None:
    batch = example_batch()  # 12 rollouts
    dealt = ShuffledMinibatch()(batch, num_minibatches=5, seed=3)
    assert sorted(torch.bincount(dealt).tolist()) == [2, 2, 2, 3, 3]
    assert torch.equal(dealt, ShuffledMinibatch()(batch, num_minibatches=5, seed=3))
    assert not torch.equal(dealt, ShuffledMinibatch()(batch, num_minibatches=5, seed=4))


def test_more_minibatches_than_rollouts_are_refused() -> None:
    with pytest.raises(ValueError, match="12 rollouts must be dealt into 1 to 12 mini-batches, got 13"):
        ShuffledMinibatch()(example_batch(), num_minibatches=13, seed=0)


def test_uniform_allocation_asks_once_and_keeps_everything() -> None:
    uniform = UniformAllocation()
    start = Outcomes(num_prompts=3, group_size=8)
    assert list(uniform.wanted(start)) == [8, 8, 8]
    assert not uniform.wanted(replace(start, round=1, grades=(torch.ones(8),) * 3))
    assert uniform.keep(torch.ones(4))


def test_the_divergence_estimate_is_zero_on_policy_and_above_it_otherwise(batch_of: MakeBatch) -> None:
    # k3 = r - 1 - log r for the tokens of a rollout: 0 at r = 1, else positive
    batch = batch_of([1, 0], lengths=[2, 2])
    for ratios, expected in (((1.0,) * 4, 0.0), ((2.0, 1.0, 1.0, 0.5), 1 - math.log(2) - 0.5 + math.log(2))):
        micro = prepare(GRPO, batch).micro(torch.arange(2))
        now = policy(*ratios)
        total, count = micro_loss(GRPO, micro, now.logprobs, now.entropy).metrics["approx_kl"]
        assert (total.item(), count.item()) == pytest.approx((expected, 4))


@pytest.mark.parametrize(("low", "high"), [(1.1, 0.2), (-0.1, 0.2), (0.2, -0.1)])
def test_clip_bounds_out_of_range_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"low must be in \[0, 1\] and high at least 0"):
        PPOClip(low=low, high=high)


def test_a_negative_eps_is_refused() -> None:
    with pytest.raises(ValueError, match="eps must be at least 0, got -1"):
        GroupNormalisedAdvantage(eps=-1)
