"""Entropy bonuses, fixed and kept at a target as in Skywork-OR1, arXiv:2505.22312; numbers by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method, adapt
from tokensweep.loss.objective import micro_loss, prepare
from tokensweep.loss.slots import Memory
from tokensweep.loss.tables import Batch, Unit
from tokensweep.methods.entropy_bonus import EntropyBonus, EntropyTarget

MakeBatch = Callable[..., Batch]


@pytest.mark.parametrize(
    ("unit", "mean", "shares"),
    [
        (Unit.token, 2.0, [1 / 4] * 4),  # (5 + 1 + 1 + 1) / 4
        (Unit.rollout, 3.0, [1 / 2, 1 / 6, 1 / 6, 1 / 6]),  # (5 + 1) / 2
    ],
)
def test_the_bonus_is_the_mean_entropy_with_its_gradient(
    unit: Unit, mean: float, shares: list[float], method_of: Callable[..., Method], batch_of: MakeBatch
) -> None:
    method = replace(
        method_of("method=entropy_bonus"), regularizers={"entropy": EntropyBonus(coef=0.1, unit=unit)}
    )
    prepared = prepare(method, batch_of([1, 0], lengths=[1, 3]))
    logprobs = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    entropy = torch.tensor([5.0, 1, 1, 1], dtype=torch.float64, requires_grad=True)
    output = micro_loss(method, prepared.micro(torch.arange(2)), logprobs, entropy)
    output.loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert output.metrics["regularizer/entropy"][0].item() == pytest.approx(-0.1 * mean)
    assert entropy.grad is not None
    assert entropy.grad.tolist() == pytest.approx([-0.1 * share for share in shares])


def test_tokens_without_an_advantage_take_part(method_of: Callable[..., Method], batch_of: MakeBatch) -> None:
    prepared = prepare(method_of("method=entropy_bonus"), batch_of([1, 1], lengths=[1, 3]))
    assert prepared.active.all()


def test_the_coefficient_rises_below_the_target_and_falls_above(
    method_of: Callable[..., Method], batch_of: MakeBatch
) -> None:
    # entropies 0.1 0.1 0.3 0.2 (the target) 0.3 0.3 0.3 and step 0.005: c goes 0, .005, .01, .005, .01, .005,
    # 0, 0; what acts is the c before the move where the entropy is at or below the target, else 0
    method = method_of("method=entropy_target")
    memories: dict[str, Memory] = {}
    acting, kept = [], []
    for entropy in (0.1, 0.1, 0.3, 0.2, 0.3, 0.3, 0.3):
        batch = batch_of([1, 0], lengths=[1, 1], old_entropy=[entropy] * 2)
        day, memories = adapt(method, memories, batch)
        bonus = day.regularizers["entropy"]
        assert isinstance(bonus, EntropyTarget)
        acting.append(bonus.coef)
        kept.append(memories["regularizers.entropy"]["coef"])
    assert acting == pytest.approx([0, 0.005, 0, 0.005, 0, 0, 0])
    assert kept == pytest.approx([0.005, 0.01, 0.005, 0.01, 0.005, 0, 0])


def test_the_coefficient_has_a_ceiling(batch_of: MakeBatch) -> None:
    batch = batch_of([1, 0], lengths=[1, 1], old_entropy=[0.1, 0.1])
    assert EntropyTarget(highest=0.01).adapt({"coef": 0.01}, batch)[1] == {"coef": 0.01}


def test_above_the_target_and_without_a_ceiling_it_is_the_method_without_a_bonus(
    method_of: Callable[..., Method],
) -> None:
    # the example's entropies have a mean of 0.5 nats: above 0.2, so the bonus does not act; with highest 0 it
    # never does, whatever the entropy
    batch = example_batch()
    assert batch.columns["old_entropy"].mean() > 0.2
    base = method_of("method=entropy_target", "~method.regularizers.entropy")
    expected = loss_and_gradient(base, prepare(base, batch), near_old(batch))
    for part in (EntropyTarget(coef=0.5), EntropyTarget(highest=0.0, target=9.0)):
        method = replace(base, regularizers={"entropy": part})
        day, memories = adapt(method, {"regularizers.entropy": {"coef": part.coef}}, batch)
        for ours, theirs in zip(
            loss_and_gradient(day, prepare(day, batch), near_old(batch)), expected, strict=True
        ):
            assert torch.equal(ours, theirs)
        assert memories["regularizers.entropy"]["coef"] == pytest.approx(0.495 if part.coef else 0.0)


def test_at_or_below_the_target_the_bonus_acts_with_the_coefficient_so_far(
    method_of: Callable[..., Method], batch_of: MakeBatch
) -> None:
    # coef 0.3 on a mean entropy of 0.1: -0.03 in the loss, and 0.305 for the next batch
    method = replace(
        method_of("method=entropy_target"), regularizers={"entropy": EntropyTarget(coef=0.3, target=0.1)}
    )
    batch = batch_of([1, 0], lengths=[1, 1], old_entropy=[0.05, 0.15])
    day, memories = adapt(method, {}, batch)
    entropy = batch.columns["old_entropy"].clone().requires_grad_()
    logprobs = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    output = micro_loss(day, prepare(day, batch).micro(torch.arange(2)), logprobs, entropy)
    assert output.metrics["regularizer/entropy"][0].item() == pytest.approx(-0.03)
    assert memories["regularizers.entropy"]["coef"] == pytest.approx(0.305)


def test_the_presets_hold_trl_s_constants_and_those_of_the_released_scripts(
    method_of: Callable[..., Method],
) -> None:
    trl, released = (method_of(f"method={name}") for name in ("entropy_target", "entropy_target_as_released"))
    assert trl.regularizers == {"entropy": EntropyTarget(target=0.2, step=0.005, highest=1.0)}
    assert released.regularizers == {"entropy": EntropyTarget(target=0.2, step=1e-4, highest=0.005)}
    assert trl.updates_per_batch == released.updates_per_batch == 1


def test_methods_without_memory_stay_the_same_object(
    method_of: Callable[..., Method], batch_of: MakeBatch
) -> None:
    method = method_of("method=grpo")
    assert adapt(method, {}, batch_of([1, 0], lengths=[1, 1])) == (method, {})


@pytest.mark.parametrize(
    "fields", [{"target": -0.1}, {"step": 0.0}, {"highest": 0.1, "coef": 0.2}, {"coef": -1.0}]
)
def test_a_target_that_makes_no_sense_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least 0"):
        EntropyTarget(**fields)  # type: ignore[arg-type]  # all fields given are floats
