"""HolderPO, arXiv:2605.12058: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import Policies, example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method, at_step, inert_keys
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch
from tokensweep.methods.grpo import GroupNormalisedAdvantage, RolloutMean, Std, TokenRatio
from tokensweep.methods.holderpo import HolderRatio, HolderTokenMean, log_power_mean

ORDERS = (-8.0, -2.0, -1.0, -0.01, 0.0, 0.01, 1.0, 2.0, 8.0)


def power_mean(ratios: list[float], p: float) -> float:
    """Power mean of one rollout's ratios through the code under test."""
    log_x = torch.tensor(ratios, dtype=torch.float64).log()
    segments = torch.zeros(len(ratios), dtype=torch.int64)
    mean = log_power_mean(log_x, weights=torch.ones_like(log_x), segments=segments, size=1, p=p)
    return math.exp(mean.item())


def one_minibatch() -> Batch:
    batch = example_batch()
    return replace(batch, minibatch_of=torch.zeros(12).long(), microbatch_of=torch.zeros(12).long())


def run(method: Method, batch: Batch, now: Policies) -> tuple[Tensor, Tensor]:
    return loss_and_gradient(method, prepare(method, batch), now)


@pytest.fixture
def holderpo(method_of: Callable[..., Method]) -> Method:
    return method_of("method=holderpo")


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (1, 2.5),  # arithmetic: (1 + 4) / 2
        (0, 2.0),  # geometric: sqrt(1 * 4)
        (-1, 1.6),  # harmonic: 2 / (1 + 1/4)
        (2, 8.5**0.5),  # quadratic: sqrt((1 + 16) / 2)
        (-2, 1.0625**-0.5 * 2**0.5),  # ((1 + 1/16) / 2) ** (-1/2)
    ],
)
def test_the_power_mean_of_one_and_four(p: float, expected: float) -> None:
    assert power_mean([1, 4], p) == pytest.approx(expected)


@pytest.mark.parametrize("p", ORDERS)
def test_log_space_agrees_with_the_direct_formula(p: float) -> None:
    ratios = [0.7, 1.3, 1.05, 0.2, 2.0]
    direct = (sum(r**p for r in ratios) / 5) ** (1 / p) if p else math.prod(ratios) ** (1 / 5)
    assert power_mean(ratios, p) == pytest.approx(direct)


def test_a_weighted_power_mean_takes_shares_by_weight() -> None:
    # weights 3 and 1 on 1 and 4: (3 + 4) / 4 arithmetic; a third of weight 0 is absent
    log_x = torch.tensor([1.0, 4.0, 1e6], dtype=torch.float64).log()
    weights = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    segments = torch.zeros(3, dtype=torch.int64)
    mean = log_power_mean(log_x, weights=weights, segments=segments, size=2, p=1.0)
    assert mean.exp().tolist() == pytest.approx([1.75, 1.0])  # a segment without tokens: ratio 1


def test_the_mean_never_falls_with_the_order_and_stays_within_the_ratios() -> None:
    ratios = [0.7, 1.3, 1.05, 0.2, 2.0]
    means = [power_mean(ratios, p) for p in ORDERS]
    assert means == sorted(means)
    assert means[0] > 0.2
    assert means[-1] < 2.0


@pytest.mark.parametrize("p", ORDERS)
def test_a_common_factor_comes_out_of_the_mean(p: float) -> None:
    ratios = [0.7, 1.3, 1.05]
    assert power_mean([3 * r for r in ratios], p) == pytest.approx(3 * power_mean(ratios, p))


@pytest.mark.parametrize("p", [1e-12, -1e-9, 1e-6, 1e-3])
def test_small_orders_lose_no_digits(p: float) -> None:
    # second order around 0: log M_p = mean + p/2 variance; here mean 0, variance 1
    log_mean = math.log(power_mean([math.e, 1 / math.e], p))
    assert log_mean == pytest.approx(p / 2, rel=1e-5)


def shares(p: float, log_ratios: Tensor) -> Tensor:
    """Share of each token in the gradient of one rollout's log ratio."""
    moved = log_ratios.clone().requires_grad_()
    segments = torch.zeros(moved.numel(), dtype=torch.int64)
    log_power_mean(moved, weights=torch.ones_like(moved), segments=segments, size=1, p=p).backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert moved.grad is not None
    return moved.grad


@pytest.mark.parametrize("p", ORDERS)
def test_the_shares_are_the_powers_of_the_ratios_and_sum_to_one(p: float) -> None:
    log_ratios = torch.tensor([0.3, -0.2, 0.9, 0.0], dtype=torch.float64)
    got = shares(p, log_ratios)
    torch.testing.assert_close(got, torch.softmax(p * log_ratios, 0))
    torch.testing.assert_close(got.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_the_shares_are_most_even_at_order_zero() -> None:
    log_ratios = torch.tensor([0.3, -0.2, 0.9, 0.0], dtype=torch.float64)
    entropy = {p: -(shares(p, log_ratios) * shares(p, log_ratios).log()).sum().item() for p in ORDERS}
    assert entropy[0.0] == pytest.approx(math.log(4))  # uniform
    assert [entropy[p] for p in ORDERS if p <= 0] == sorted(entropy[p] for p in ORDERS if p <= 0)
    assert [entropy[p] for p in ORDERS if p >= 0] == sorted(
        (entropy[p] for p in ORDERS if p >= 0), reverse=True
    )


def test_the_shares_are_even_for_equal_ratios() -> None:
    got = shares(5.0, torch.full((4,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(got, torch.full((4,), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("p", ORDERS)
def test_on_policy_every_order_has_the_gradient_of_grpo(
    p: float, holderpo: Method, method_of: Callable[..., Method]
) -> None:
    batch = one_minibatch()
    now = near_old(batch, spread=0)
    grpo = replace(holderpo, ratio=TokenRatio())
    token = replace(grpo, aggregate=HolderTokenMean(p=p))
    selection = method_of("method=forking_tokens").token_weights
    for weights in ({}, selection):
        expected = run(replace(grpo, token_weights=weights), batch, now)[1]
        for method in (replace(holderpo, ratio=HolderRatio(p=p)), token):
            got = run(replace(method, token_weights=weights), batch, now)[1]
            torch.testing.assert_close(got, expected)


def test_off_policy_the_order_matters(holderpo: Method) -> None:
    batch = one_minibatch()
    now = near_old(batch)
    first, second = (run(replace(holderpo, ratio=HolderRatio(p=p)), batch, now)[1] for p in (-2.0, 2.0))
    assert (first - second).abs().max() > 1e-3


def test_order_zero_with_sequence_clip_is_gspo(holderpo: Method) -> None:
    batch = one_minibatch()
    method = replace(holderpo, ratio=HolderRatio(p=0.0))
    prepared = prepare(method, batch)
    now = near_old(batch)
    # GSPO written out rollout by rollout
    logprobs = now.logprobs.clone().requires_grad_()
    objective = torch.zeros((), dtype=torch.float64)
    for rollout in range(12):
        tokens = batch.rollout_of == rollout
        ratio = (logprobs - batch.columns["old_logprobs"])[tokens].mean().exp()
        advantage = prepared.advantages[tokens][0]
        objective = objective + torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) / 12
    (-objective).backward()  # type: ignore[no-untyped-call]  # untyped in torch
    loss, gradient = loss_and_gradient(method, prepared, now)
    torch.testing.assert_close(loss, -objective.detach())
    torch.testing.assert_close(gradient, logprobs.grad)


def test_the_token_form_of_order_one_is_grpo(method_of: Callable[..., Method]) -> None:
    batch = one_minibatch()
    now = near_old(batch)
    token = method_of("method=holderpo_token", "method.aggregate.p=1")
    grpo = replace(token, aggregate=RolloutMean())
    for got, expected in zip(run(token, batch, now), run(grpo, batch, now), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_sequence_form_of_order_one_is_not_grpo(holderpo: Method) -> None:
    batch = one_minibatch()
    now = near_old(batch)
    sequence = run(replace(holderpo, ratio=HolderRatio(p=1.0)), batch, now)[1]
    assert (sequence - run(replace(holderpo, ratio=TokenRatio()), batch, now)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("p", [-2.0, 0.0, 2.0])
def test_the_token_form_is_the_power_mean_of_clipped_ratios(
    p: float, method_of: Callable[..., Method]
) -> None:
    batch = one_minibatch()
    method = method_of("method=holderpo_token", f"method.aggregate.p={p}")
    prepared = prepare(method, batch)
    now = near_old(batch)
    # appendix D written out: the smaller of ratio and clipped ratio for A > 0, the larger for A < 0
    logprobs = now.logprobs.clone().requires_grad_()
    objective = torch.zeros((), dtype=torch.float64)
    for rollout in range(12):
        tokens = batch.rollout_of == rollout
        ratio = (logprobs - batch.columns["old_logprobs"])[tokens].exp()
        advantage = prepared.advantages[tokens][0]
        pick = torch.minimum if advantage > 0 else torch.maximum
        clipped = pick(ratio, ratio.clamp(0.8, 1.2))
        mean = (clipped**p).mean() ** (1 / p) if p else clipped.log().mean().exp()
        objective = objective + mean * advantage / 12
    (-objective).backward()  # type: ignore[no-untyped-call]  # untyped in torch
    loss, gradient = loss_and_gradient(method, prepared, now)
    torch.testing.assert_close(loss, -objective.detach())
    torch.testing.assert_close(gradient, logprobs.grad)


def test_the_token_form_keeps_both_signs_of_an_advantage_that_varies(
    method_of: Callable[..., Method],
) -> None:
    # one rollout, advantages 1 2 -2, ratios 1 4 1.1: the positive ones by weight, sqrt((1 + 2 * 16) / 3),
    # times 3; the negative one 2 * 1.1; together over 3 tokens
    batch = one_minibatch()
    keep = torch.tensor([2])  # a rollout of three tokens
    method = method_of("method=holderpo_token", "method.surrogate.high=100")
    prepared = prepare(method, batch)
    tokens = batch.rollout_of == 2
    advantages = prepared.advantages.clone()
    advantages[tokens] = torch.tensor([1.0, 2.0, -2.0], dtype=torch.float64)
    logprobs = batch.columns["old_logprobs"].clone()
    logprobs[tokens] += torch.tensor([1.0, 4.0, 1.1], dtype=torch.float64).log()
    prepared = replace(prepared, advantages=advantages)
    loss, _ = loss_and_gradient(method, prepared, Policies(logprobs, logprobs), cut=[keep.tolist()])
    expected = -(3 * 11**0.5 - 2.2) / 3 / 12  # 12 rollouts in the mini-batch
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("p", [-8.0, -1.0, 0.0, 1.0, 8.0])
def test_ratios_of_twenty_nats_stay_finite_in_single_precision(p: float) -> None:
    log_ratios = torch.tensor([20.0, -20.0, 0.0])
    segments = torch.zeros(3, dtype=torch.int64)
    mean = log_power_mean(log_ratios, weights=torch.ones(3), segments=segments, size=1, p=p)
    assert -20 <= mean.item() <= 20
    assert shares(p, log_ratios).isfinite().all()


def test_a_token_of_weight_zero_has_no_part_in_the_ratio(holderpo: Method) -> None:
    batch = one_minibatch()
    prepared = prepare(holderpo, batch)
    half = replace(prepared, weights=(torch.arange(71) % 2).double())
    now = near_old(batch)
    far = replace(now, logprobs=torch.where(half.weights == 0, now.logprobs + 3, now.logprobs))
    for got, expected in zip(
        loss_and_gradient(holderpo, half, far), loss_and_gradient(holderpo, half, now), strict=True
    ):
        assert torch.equal(got, expected)


def test_the_presets_hold_what_paper_and_code_say(method_of: Callable[..., Method]) -> None:
    for preset in ("holderpo", "holderpo_token", "holderpo_annealed"):
        method = method_of(f"method={preset}")
        assert method.updates_per_batch == 8
        assert method.advantage == GroupNormalisedAdvantage(std=Std.sample, eps=1e-8)
    assert method_of("method=holderpo").schedules == {}


def test_the_annealed_order_falls_in_a_line_and_then_stays(method_of: Callable[..., Method]) -> None:
    annealed = method_of("method=holderpo_annealed")
    orders = [at_step(annealed, step).ratio for step in (0, 125, 250, 500, 900)]
    assert orders == [HolderRatio(p=p) for p in (2.0, 1.0, 0.0, -2.0, -2.0)]


def test_stacked_on_dapo_only_the_ratio_and_the_advantage_change(method_of: Callable[..., Method]) -> None:
    dapo = method_of("method=dapo")
    stacked = method_of("method=[dapo,holderpo]", "method/aggregate=token_mean")
    own = {"name": "dapo", "updates_per_batch": 16, "ratio": dapo.ratio, "advantage": dapo.advantage}
    assert replace(stacked, **own) == dapo  # type: ignore[arg-type]  # mixed types


def test_with_one_update_the_order_has_no_effect(method_of: Callable[..., Method]) -> None:
    once = method_of("method=holderpo", "method.updates_per_batch=1")
    assert "one update per optimiser batch keeps every ratio at 1" in inert_keys(once)["ratio.p"]
    assert "aggregate.p" in inert_keys(method_of("method=holderpo_token", "method.updates_per_batch=1"))


@pytest.mark.parametrize("component", [HolderRatio, HolderTokenMean])
def test_an_order_beyond_sixteen_is_refused(component: type[HolderRatio] | type[HolderTokenMean]) -> None:
    with pytest.raises(ValueError, match="p must lie within ±16 to stay finite, got -17"):
        component(p=-17.0)


def test_the_token_form_refuses_a_surrogate_without_a_ratio(method_of: Callable[..., Method]) -> None:
    with pytest.raises(ValueError, match="got CISPO: take method/surrogate=ppo_clip"):
        method_of("method=holderpo_token", "method/surrogate=cispo")
