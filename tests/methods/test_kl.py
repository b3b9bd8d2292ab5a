"""The divergence from the reference, in the loss and in the reward, with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.objective import micro_loss, prepare
from tokensweep.loss.slots import Advantage
from tokensweep.loss.tables import Batch, Unit
from tokensweep.methods.kl import Estimator, KLPenalty, KLReward, divergence

MakeBatch = Callable[..., Batch]
LOG2 = math.log(2)


class Nothing(Advantage):
    """No signal: what is left of the loss is the penalty."""

    def __call__(self, batch: Batch) -> Tensor:
        return torch.zeros(batch.num_tokens, dtype=torch.float64)


def penalty(
    method: Method, part: KLPenalty, batch: Batch, logprobs: list[float]
) -> tuple[float, list[float]]:
    """Value and gradient by the log-probabilities of the penalty alone."""
    alone = replace(method, advantage=Nothing(), regularizers={"kl": part})
    prepared = prepare(alone, batch)
    now = torch.tensor(logprobs, dtype=torch.float64, requires_grad=True)
    loss = micro_loss(alone, prepared.micro(torch.arange(2)), now, torch.zeros_like(now)).loss
    loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert now.grad is not None
    return loss.item(), now.grad.tolist()


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [  # the policy is twice as likely as the reference: d = log 2
        (Estimator.k1, LOG2, 1),
        (Estimator.k2, LOG2**2 / 2, LOG2),
        (Estimator.k3, 1 / 2 - 1 + LOG2, 1 - 1 / 2),  # exp(-d) - 1 + d, slope 1 - exp(-d)
    ],
)
def test_the_estimators_and_their_slopes(estimator: Estimator, value: float, slope: float) -> None:
    logprobs = torch.tensor([LOG2], dtype=torch.float64, requires_grad=True)
    estimate = divergence(estimator, logprobs, torch.zeros(1, dtype=torch.float64))
    estimate.sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert estimate.item() == pytest.approx(value)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(slope)


@pytest.mark.parametrize("estimator", [Estimator.k2, Estimator.k3])
def test_it_is_zero_only_where_both_agree(estimator: Estimator) -> None:
    d = torch.linspace(-3, 3, 13, dtype=torch.float64)  # 0 in the middle
    estimate = divergence(estimator, d, torch.zeros_like(d))
    assert (estimate > 0).tolist() == [True] * 6 + [False] + [True] * 6
    assert estimate[6] == 0


def test_far_from_the_reference_it_stays_finite() -> None:
    far = torch.tensor([-5000.0, 5000.0])
    for estimator in Estimator:
        assert divergence(estimator, far, torch.zeros(2)).isfinite().all()


def test_k3_agrees_with_the_exact_divergence_in_expectation() -> None:
    # policy (1/4, 3/4), reference (1/2, 1/2): KL = log(1/2) / 4 + 3 log(3/2) / 4
    policy, reference = torch.tensor([1, 3]).double() / 4, torch.tensor([1, 1]).double() / 2
    exact = math.log(1 / 2) / 4 + 3 * math.log(3 / 2) / 4
    for estimator in (Estimator.k1, Estimator.k3):
        each = divergence(estimator, policy.log(), reference.log())
        assert (policy * each).sum().item() == pytest.approx(exact)


@pytest.mark.parametrize(
    ("unit", "shares"),
    [(Unit.token, [1 / 4] * 4), (Unit.rollout, [1 / 2, 1 / 6, 1 / 6, 1 / 6])],
)
def test_the_penalty_is_a_mean_over_all_tokens(
    unit: Unit, shares: list[float], method_of: Callable[..., Method], batch_of: MakeBatch
) -> None:
    batch = batch_of([1, 0], lengths=[1, 3], ref_logprobs=[-1, 0, 0, -2])
    part = KLPenalty(coef=0.1, estimator=Estimator.k1, unit=unit)
    value, slopes = penalty(method_of("method=grpo_kl"), part, batch, [0, 0, 0, 0])
    assert value == pytest.approx(0.1 * (shares[0] * 1 + shares[3] * 2))
    assert slopes == pytest.approx([0.1 * share for share in shares])


def test_weighted_by_importance_the_ratio_carries_a_gradient_too(
    method_of: Callable[..., Method], batch_of: MakeBatch
) -> None:
    # ratio 2 to the old policy, d = log 2: r k3 = 2 (log 2 - 1/2); slope r k3 + r (1 - 1/2) = 2 log 2
    batch = batch_of([1, 0], lengths=[1, 1], ref_logprobs=[0, 0])
    part = KLPenalty(coef=1, unit=Unit.token, importance_weighted=True)
    value, slopes = penalty(method_of("method=grpo_kl"), part, batch, [LOG2, 0])
    assert value == pytest.approx(2 * (LOG2 - 1 / 2) / 2)  # over 2 tokens
    assert slopes == pytest.approx([2 * LOG2 / 2, 0])


def test_in_the_reward_each_token_pays_for_itself(
    method_of: Callable[..., Method], batch_of: MakeBatch
) -> None:
    batch = batch_of([1, 0], lengths=[1, 2], ref_logprobs=[-1, 0, -3])
    method = replace(method_of("method=grpo"), token_rewards={"kl": KLReward(coef=0.1)})
    prepared = prepare(method, batch)
    assert prepared.batch.columns["token_rewards"].tolist() == pytest.approx([-0.1, 0, -0.3])
    assert prepared.batch.rewards.tolist() == pytest.approx([0.9, -0.3])


def test_the_paper_of_grpo_has_k3_in_the_mean_over_rollouts(method_of: Callable[..., Method]) -> None:
    grpo_kl, grpo = method_of("method=grpo_kl"), method_of("method=grpo")
    assert grpo_kl.regularizers == {"kl": KLPenalty(coef=0.04, estimator=Estimator.k3, unit=Unit.rollout)}
    assert replace(grpo_kl, name="grpo", regularizers={}) == grpo


@pytest.mark.parametrize("part", [KLPenalty, KLReward])
def test_a_negative_coefficient_is_refused(part: type[KLPenalty] | type[KLReward]) -> None:
    with pytest.raises(ValueError, match="coef must be at least 0"):
        part(coef=-0.1)
