"""STEER, arXiv:2510.10150: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method, inert_keys
from tokensweep.loss.objective import micro_loss, prepare
from tokensweep.loss.slots import Policy
from tokensweep.loss.tables import Batch, Scope
from tokensweep.methods.dual_clip import DualClip
from tokensweep.methods.steer import EntropyChangeWeight, Shape, entropy_loss

MethodOf = Callable[..., Method]

# Old probabilities and entropies of two tokens each of a good and a bad rollout (A 1 and -1), and by hand
# Omega = A (1 - p) (log p + H) at ratio 1: 0.5 (log 0.5 + 1), 0.75 (log 0.25 + 1), -0.5 (log 0.5 + 0.2), and
# -0.9 (log 0.1 + 0.5)
PROBABILITIES, ENTROPIES = (0.5, 0.25, 0.5, 0.1), (1.0, 1.0, 0.2, 0.5)
OMEGA = (0.1534264, -0.2897208, 0.2465736, 1.6223266)


@pytest.fixture
def hand(batch_of: Callable[..., Batch]) -> Batch:
    batch = batch_of([1, 0], lengths=[2, 2], old_entropy=ENTROPIES)
    return batch.with_columns(old_logprobs=torch.tensor(PROBABILITIES, dtype=torch.float64).log())


@pytest.fixture
def steer(method_of: MethodOf) -> Callable[..., Method]:
    base = method_of("method=steer", "method.advantage.eps=0")

    def make(**fields: object) -> Method:
        part = EntropyChangeWeight(**fields)  # type: ignore[arg-type]  # mixed types
        return replace(base, token_weights={"entropy_change": part})

    return make


def weights(method: Method, batch: Batch) -> list[float]:
    found: list[float] = prepare(method, batch).weights.tolist()
    return found


def test_the_change_is_that_of_the_formula(steer: Callable[..., Method], hand: Batch) -> None:
    micro = prepare(steer(), hand).micro(torch.arange(2))
    old = hand.columns["old_logprobs"]
    view = micro.table.view(logprobs=old, entropy=hand.columns["old_entropy"])
    assert entropy_loss(view).tolist() == pytest.approx(OMEGA)
    # twice as likely: 1 / 0.25 * 0.5 * 0.5 * (log 0.5 + 1) for the second token
    now = old + torch.tensor([0, math.log(2), 0, 0], dtype=torch.float64)
    assert entropy_loss(replace(view, logprobs=now)).tolist()[1] == pytest.approx(0.3068528)


def test_it_predicts_the_fall_of_entropy_up_to_the_other_tokens() -> None:
    # Three tokens, step e on the logits along 1[y] - p: the entropy of the softmax falls by
    # e (p_y (log p_y + H) - sum_j p_j^2 (log p_j + H)), the first term times 1 - p_y is the formula's
    logits = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    p = logits.softmax(0)
    entropy = -(p * p.log()).sum()
    for token in range(3):
        step = -p.clone()
        step[token] += 1
        moved = (logits + 1e-6 * step).softmax(0)
        fall = float(entropy + (moved * moved.log()).sum()) / 1e-6
        formula = float(p[token] * (1 - p[token]) * (p[token].log() + entropy))
        assert math.copysign(1, fall) == math.copysign(1, formula)


def test_exponential_weights_end_at_the_lowest_for_the_largest_change(
    steer: Callable[..., Method], hand: Batch
) -> None:
    # 0.8 to the power |Omega| / 1.6223266
    expected = [0.8 ** (abs(each) / OMEGA[3]) for each in OMEGA]
    assert weights(steer(), hand) == pytest.approx(expected)
    assert weights(steer(), hand)[3] == 0.8


def test_below_the_floor_small_changes_stay_near_one(steer: Callable[..., Method], hand: Batch) -> None:
    # floor 3.2446532 is twice the largest change: its weight is the root of 0.8
    assert weights(steer(floor=2 * OMEGA[3]), hand)[3] == pytest.approx(math.sqrt(0.8), rel=1e-6)


def test_linear_weights_run_from_the_highest_to_the_lowest(steer: Callable[..., Method], hand: Batch) -> None:
    # smallest 0.1534264, largest 1.6223266
    expected = [1.2 - (abs(each) - OMEGA[0]) / (OMEGA[3] - OMEGA[0]) * 0.4 for each in OMEGA]
    assert weights(steer(shape=Shape.linear), hand) == pytest.approx(expected)


def test_linear_weights_of_equal_changes_are_the_mean(steer: Callable[..., Method], hand: Batch) -> None:
    flat = hand.with_columns(old_logprobs=torch.zeros(4, dtype=torch.float64))  # p = 1: no change
    assert weights(steer(shape=Shape.linear), flat) == pytest.approx([1.0] * 4)
    assert weights(steer(shape=Shape.linear, highest=1.0), flat) == pytest.approx([0.9] * 4)


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("shape", list(Shape))
def test_weights_stay_within_their_bounds_and_reach_them(
    steer: Callable[..., Method], scope: Scope, shape: Shape
) -> None:
    batch = example_batch()
    found = prepare(steer(scope=scope, shape=shape), batch).weights
    top = 1.0 if shape is Shape.exponential else 1.2
    assert ((found >= 0.8) & (found <= top)).all()
    segments = batch.segments(scope)
    for number in range(int(segments.max()) + 1):
        inside = segments == number
        signal = prepare(steer(), batch).advantages[inside] != 0
        if signal.any():  # else no token changes anything
            assert found[inside].min().item() == pytest.approx(0.8)


@pytest.mark.parametrize("policy", list(Policy))
def test_with_lowest_weight_one_it_is_the_base_bit_by_bit(
    steer: Callable[..., Method], policy: Policy
) -> None:
    batch = example_batch()
    off = steer(lowest=1.0, policy=policy, scope=Scope.micro)
    base = replace(off, token_weights={})
    got, expected = (loss_and_gradient(m, prepare(m, batch), near_old(batch)) for m in (off, base))
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_as_released_the_current_policy_decides_in_each_micro_batch(
    steer: Callable[..., Method], hand: Batch
) -> None:
    released = steer(policy=Policy.current, scope=Scope.micro)
    prepared = prepare(released, hand)
    assert prepared.weights.tolist() == [1, 1, 1, 1]
    now = hand.columns["old_logprobs"] + torch.tensor([0, math.log(2), 0, 0], dtype=torch.float64)
    micro = prepared.micro(torch.arange(2))
    view = micro.table.view(logprobs=now, entropy=hand.columns["old_entropy"])
    found = released.token_weights["entropy_change"](view).tolist()
    # the second token's change is 0.3068528 now
    assert found == pytest.approx([0.8 ** (x / OMEGA[3]) for x in (OMEGA[0], 0.3068528, OMEGA[2], OMEGA[3])])


def test_on_policy_with_one_micro_batch_both_presets_say_the_same(method_of: MethodOf) -> None:
    batch = example_batch()
    one = torch.zeros(12, dtype=torch.int64)
    batch = replace(batch, minibatch_of=one, microbatch_of=one)
    now = replace(near_old(batch, spread=0), entropy=batch.columns["old_entropy"])
    ours, released = (method_of(f"method={name}") for name in ("steer", "steer_as_released"))
    got, expected = (loss_and_gradient(m, prepare(m, batch), now) for m in (ours, released))
    torch.testing.assert_close(got, expected)


def test_shuffled_weights_are_the_same_ones_elsewhere(steer: Callable[..., Method]) -> None:
    batch = example_batch()
    plain, dealt = (prepare(steer(shuffled=s, scope=Scope.group), batch).weights for s in (False, True))
    groups = batch.prompt_of[batch.rollout_of]
    for group in range(3):
        assert torch.equal(plain[groups == group].sort().values, dealt[groups == group].sort().values)
    assert not torch.equal(plain, dealt)


def test_weights_leave_the_denominator_alone(
    steer: Callable[..., Method], hand: Batch, pull: Callable[..., Tensor]
) -> None:
    # 4 tokens: the pull of the last is 0.8 / 4
    assert pull(steer(), hand, [1.0] * 4)[3].item() == pytest.approx(0.8 / 4)


def test_it_tells_weights_and_the_predicted_loss(steer: Callable[..., Method], hand: Batch) -> None:
    told = prepare(steer(), hand).measured
    assert told["token_weights.entropy_change/predicted_loss"] == pytest.approx(sum(OMEGA) / 4)
    assert told["token_weights.entropy_change/largest_change"] == pytest.approx(OMEGA[3])
    assert told["token_weights.entropy_change/smallest_weight"] == pytest.approx(0.8)
    released = steer(policy=Policy.current, scope=Scope.micro)
    prepared = prepare(released, hand)
    assert prepared.measured == {}
    output = micro_loss(
        released,
        prepared.micro(torch.arange(2)),
        hand.columns["old_logprobs"].clone(),
        hand.columns["old_entropy"],
    )
    total, count = output.measured["token_weights.entropy_change/predicted_loss"]
    assert (total / count).item() == pytest.approx(sum(OMEGA) / 4)


def test_the_presets_hold_what_the_script_says(method_of: MethodOf) -> None:
    ours, released = (method_of(f"method={name}") for name in ("steer", "steer_as_released"))
    assert ours.token_weights == {"entropy_change": EntropyChangeWeight(lowest=0.8)}
    current = EntropyChangeWeight(lowest=0.8, scope=Scope.micro, policy=Policy.current)
    assert released.token_weights == {"entropy_change": current}
    assert ours.surrogate == released.surrogate == DualClip(low=0.2, high=0.28, cap=10)
    assert "token_weights.entropy_change.highest" in inert_keys(ours)


@pytest.mark.parametrize("fields", [{"lowest": 0.0}, {"lowest": 1.1}, {"highest": 0.9}, {"floor": 0.0}])
def test_weights_that_make_no_sense_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"lowest must be in \(0, 1\], highest at least 1 and floor above 0"):
        EntropyChangeWeight(**fields)  # type: ignore[arg-type]  # all fields given are floats
