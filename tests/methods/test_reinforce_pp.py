"""REINFORCE++, arXiv:2501.03262: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch, Unit
from tokensweep.methods.grpo import GroupNormalisedAdvantage, Std
from tokensweep.methods.kl import Estimator, KLPenalty, KLReward
from tokensweep.methods.reinforce_pp import ReinforcePPAdvantage, ReinforcePPBaselineAdvantage

MakeBatch = Callable[..., Batch]


def step_ratio(advantages: Tensor) -> float:
    """(x2 - x1) / (x1 - x0): what whitening leaves as it is."""
    steps = advantages.diff()
    return (steps[1] / steps[0]).item()


def test_returns_are_whitened_over_the_tokens_of_the_batch(batch_of: MakeBatch) -> None:
    # 1 0 0 0: mean 1/4, sample variance (9/16 + 3/16) / 3 = 1/4
    got = ReinforcePPAdvantage(eps=0)(batch_of([1, 0], lengths=[1, 3]))
    assert got.tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])


@pytest.mark.parametrize("advantage", [ReinforcePPAdvantage(), ReinforcePPBaselineAdvantage()])
def test_the_result_has_mean_zero_and_variance_one(
    advantage: ReinforcePPAdvantage | ReinforcePPBaselineAdvantage,
) -> None:
    got = advantage(example_batch())
    assert got.mean().item() == pytest.approx(0, abs=1e-12)
    assert got.var().item() == pytest.approx(1, rel=1e-6)


def test_without_discount_every_token_has_the_reward_of_its_rollout() -> None:
    batch = example_batch()
    got = ReinforcePPAdvantage()(batch)
    spread = [got[batch.rollout_of == rollout].std().item() for rollout in range(12)]
    assert spread == pytest.approx([0] * 12)


def test_a_discount_takes_reward_from_early_tokens(batch_of: MakeBatch) -> None:
    # 1/4, 1/2, 1: steps of 1/4 and 1/2
    assert step_ratio(ReinforcePPAdvantage(gamma=0.5)(batch_of([1], lengths=[3]))) == pytest.approx(2)


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        (1.0, 2.0),  # rewards -0.1 -0.2 1-0.3: still to come 0.4 0.5 0.7
        (0.5, 22 / 7),  # 0.7; -0.2 + 0.35 = 0.15; -0.1 + 0.075 = -0.025
    ],
)
def test_token_rewards_are_earned_where_they_fall(
    gamma: float, expected: float, method_of: Callable[..., Method], batch_of: MakeBatch
) -> None:
    method = replace(
        method_of("method=reinforce_pp"),
        advantage=ReinforcePPAdvantage(gamma=gamma),
        token_rewards={"kl": KLReward(coef=0.1)},
    )
    batch = batch_of([1], lengths=[3], ref_logprobs=[-1, -2, -3])  # k1 1, 2, 3 nats
    assert step_ratio(prepare(method, batch).advantages) == pytest.approx(expected)


def test_equal_rewards_everywhere_give_exactly_zero(batch_of: MakeBatch) -> None:
    batch = batch_of([0.1, 0.1, 0.1], lengths=[2, 1, 4])
    assert (ReinforcePPAdvantage()(batch) == 0).all()
    assert (ReinforcePPBaselineAdvantage()(batch) == 0).all()


def test_over_the_rollouts_of_one_group_the_baseline_variant_is_grpo(batch_of: MakeBatch) -> None:
    batch = batch_of([1, 0, 0, 0.5], lengths=[1, 3, 2, 5])
    got = ReinforcePPBaselineAdvantage(unit=Unit.rollout, eps=0)(batch)
    torch.testing.assert_close(got, GroupNormalisedAdvantage(std=Std.sample, eps=0)(batch))


def test_over_tokens_long_rollouts_weigh_more(batch_of: MakeBatch) -> None:
    # centred 1/2 once and -1/2 three times: mean -1/4, sample variance (9/16 + 3/16) / 3 = 1/4
    got = ReinforcePPBaselineAdvantage(eps=0)(batch_of([1, 0], lengths=[1, 3]))
    assert got.tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])


def test_the_group_mean_is_taken_off_before_whitening(batch_of: MakeBatch) -> None:
    # groups (1, 0) and (11, 10): the offset of the second is gone
    batch = batch_of([1, 0, 11, 10], lengths=[1] * 4, prompt_of=[0, 0, 1, 1])
    got = ReinforcePPBaselineAdvantage(eps=0)(batch)  # ±1/2: sample variance 4/4 / 3 = 1/3
    assert got.tolist() == pytest.approx([3**0.5 / 2, -(3**0.5) / 2] * 2)


def test_the_presets_hold_what_verls_example_says(method_of: Callable[..., Method]) -> None:
    plain, baseline = method_of("method=reinforce_pp"), method_of("method=reinforce_pp_baseline")
    penalty = KLPenalty(coef=0.001, estimator=Estimator.k2, unit=Unit.token)
    assert plain.regularizers == {"kl": penalty} == baseline.regularizers
    assert plain.advantage == ReinforcePPAdvantage()
    assert baseline.advantage == ReinforcePPBaselineAdvantage()


def test_a_discount_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\]"):
        ReinforcePPAdvantage(gamma=1.1)
