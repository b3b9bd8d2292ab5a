"""DPPO, arXiv:2602.04879: which tokens leave the region, and what the others weigh; numbers by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import Policies, example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method, inert_keys
from tokensweep.loss.objective import micro_loss, prepare
from tokensweep.loss.tables import Batch
from tokensweep.methods.cispo import CISPO
from tokensweep.methods.dppo import BinaryKLRegion, TotalVariationRegion
from tokensweep.methods.grpo import PPOClip

MethodOf = Callable[..., Method]


@pytest.fixture
def hand(batch_of: Callable[..., Batch]) -> Callable[[list[float]], Batch]:
    """A good and a bad rollout of two tokens each, old probabilities as given; advantages ±1/2."""

    def batch(old: list[float]) -> Batch:
        made = batch_of([1, 0], lengths=[2, 2])
        return made.with_columns(old_logprobs=torch.tensor(old, dtype=torch.float64).log())

    return batch


def pull(method: Method, batch: Batch, now: list[float]) -> list[float]:
    """Gradient by the log-probabilities where the current probabilities are these."""
    logprobs = torch.tensor(now, dtype=torch.float64).log()
    policies = Policies(logprobs, torch.zeros_like(logprobs))
    return loss_and_gradient(method, prepare(method, batch), policies)[1].tolist()


def test_the_region_bounds_the_probability_and_not_the_ratio(
    method_of: MethodOf, hand: Callable[[list[float]], Batch]
) -> None:
    # 2 rollouts with a budget of 2 tokens: a pull is r A / 4. Good: 0.01 -> 0.11 is a ratio of 11 and moves
    # by 0.1, inside; 0.5 -> 0.7 is a ratio of 1.4 and moves by 0.2, outside. Bad: 0.3 -> 0.2 moves by -0.1,
    # inside; 0.9 -> 0.7 by -0.2, outside.
    batch = hand([0.01, 0.5, 0.3, 0.9])
    got = pull(method_of("method=dppo"), batch, [0.11, 0.7, 0.2, 0.7])
    assert got == pytest.approx([-11 / 2 / 4, 0, 2 / 3 / 2 / 4, 0])


def test_who_moves_back_keeps_the_gradient(method_of: MethodOf, hand: Callable[[list[float]], Batch]) -> None:
    # good tokens that fell and bad ones that rose, all by more than either bound
    batch = hand([0.9, 0.6, 0.1, 0.3])
    for preset in ("dppo", "dppo_kl"):
        got = pull(method_of(f"method={preset}"), batch, [0.5, 0.3, 0.5, 0.8])
        assert got == pytest.approx([-5 / 9 / 8, -1 / 2 / 8, 5 / 8, 8 / 3 / 8])


def test_the_binary_divergence_decides_by_nats(
    method_of: MethodOf, hand: Callable[[list[float]], Batch]
) -> None:
    # KL(0.5, 0.65) = 0.5 ln(0.5/0.65) + 0.5 ln(0.5/0.35) = 0.0471 < 0.05 and KL(0.5, 0.7) = 0.0872 > 0.05;
    # so down: KL(0.5, 0.35) = 0.0471, KL(0.01, 0.0001) = 0.01 ln 100 + 0.99 ln(0.99/0.9999) = 0.0362 < 0.05
    batch = hand([0.5, 0.5, 0.5, 0.01])
    got = pull(method_of("method=dppo_kl"), batch, [0.65, 0.7, 0.35, 0.0001])
    assert got == pytest.approx([-1.3 / 8, 0, 0.7 / 8, 0.01 / 8])


def test_weights_are_capped_and_keep_a_gradient(
    method_of: MethodOf, hand: Callable[[list[float]], Batch]
) -> None:
    # 0.001 -> 0.1 is a ratio of 100, capped at 20; without a cap it counts in full
    batch = hand([0.001, 0.5, 0.5, 0.5])
    capped, free = method_of("method=dppo"), method_of("method=dppo", "method.surrogate.is_cap=null")
    assert pull(capped, batch, [0.1, 0.5, 0.5, 0.5])[0] == pytest.approx(-20 / 8)
    assert pull(free, batch, [0.1, 0.5, 0.5, 0.5])[0] == pytest.approx(-100 / 8)


@pytest.mark.parametrize("region", [TotalVariationRegion(low=1, high=1), BinaryKLRegion(low=1e9, high=1e9)])
def test_a_region_that_nothing_leaves_is_cispo_bit_by_bit(
    method_of: MethodOf, region: TotalVariationRegion | BinaryKLRegion
) -> None:
    batch = example_batch()
    wide = replace(method_of("method=dppo"), surrogate=region)
    cispo = replace(wide, surrogate=CISPO(is_cap=20))
    now = near_old(batch, spread=1.5)
    now = replace(now, logprobs=now.logprobs.clamp(max=0))  # probabilities, which differ by 1 at most
    got, expected = (loss_and_gradient(m, prepare(m, batch), now) for m in (wide, cispo))
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_a_region_of_no_size_masks_every_move_outwards(method_of: MethodOf) -> None:
    batch = example_batch()
    method = replace(method_of("method=dppo"), surrogate=TotalVariationRegion(low=0, high=0))
    prepared = prepare(method, batch)
    now = near_old(batch)
    outwards = (now.logprobs - batch.columns["old_logprobs"]).sign() == prepared.advantages.sign()
    gradient: Tensor = loss_and_gradient(method, prepared, now)[1]
    assert torch.equal(gradient == 0, outwards | (prepared.advantages == 0))


@pytest.mark.parametrize("preset", ["dppo", "dppo_kl"])
def test_on_policy_it_has_the_gradient_of_the_clipped_objective(method_of: MethodOf, preset: str) -> None:
    batch = example_batch()
    method = method_of(f"method={preset}")
    clip = replace(method, surrogate=PPOClip())
    now = near_old(batch, spread=0)
    got, expected = (loss_and_gradient(m, prepare(m, batch), now)[1] for m in (method, clip))
    torch.testing.assert_close(got, expected)
    assert inert_keys(method) == {}
    assert set(inert_keys(replace(method, updates_per_batch=1))) == {
        "surrogate.low",
        "surrogate.high",
        "surrogate.is_cap",
    }


def test_a_probability_a_rounding_above_one_is_one(
    method_of: MethodOf, hand: Callable[[list[float]], Batch]
) -> None:
    batch = hand([0.9, 0.99, 0.5, 0.5])
    got = pull(method_of("method=dppo_kl"), batch, [1 + 1e-7, 1 + 1e-7, 0.5, 0.5])
    # KL(0.9, 1) = 0.9 ln 0.9 + 0.1 ln(0.1 / 1e-8) = 1.5, outside; KL(0.99, 1) = 0.13, outside
    assert got == pytest.approx([0, 0, 1 / 8, 1 / 8])


def test_it_tells_who_left_and_how_far_probabilities_moved(
    method_of: MethodOf, hand: Callable[[list[float]], Batch]
) -> None:
    # of two good tokens one left, of two bad ones none; moves of 0.099, 0.2, 0.1 and 0; one ratio of 100
    method, batch = method_of("method=dppo"), hand([0.001, 0.5, 0.3, 0.9])
    logprobs = torch.tensor([0.1, 0.7, 0.2, 0.9], dtype=torch.float64).log()
    told = micro_loss(method, prepare(method, batch).micro(torch.arange(2)), logprobs, logprobs).measured
    means = {name: (total / count).item() for name, (total, count) in told.items()}
    assert means["surrogate/left_positive"] == 0.5
    assert means["surrogate/left_negative"] == 0
    assert means["surrogate/capped"] == 0.25
    assert means["surrogate/moved"] == pytest.approx(0.399 / 4)


@pytest.mark.parametrize("region", [TotalVariationRegion, BinaryKLRegion])
def test_a_region_that_makes_no_sense_is_refused(
    region: type[TotalVariationRegion] | type[BinaryKLRegion],
) -> None:
    with pytest.raises(ValueError, match=r"low and high must be at least 0, got -0\.1 and 0\.2"):
        region(low=-0.1, high=0.2)
    with pytest.raises(
        ValueError, match=r"is_cap must be at least 1, the ratio without any change, got 0\.5"
    ):
        region(is_cap=0.5)
