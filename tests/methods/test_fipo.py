"""FIPO, arXiv:2603.19835: the future of a token and its influence, with numbers worked out by hand."""

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
from tokensweep.loss.tables import Batch, View
from tokensweep.methods.dual_clip import DualClip
from tokensweep.methods.fipo import FutureKLAdvantage, discounted_to_go

Pull = Callable[..., Tensor]


@pytest.fixture
def fipo(method_of: Callable[..., Method]) -> Callable[..., Method]:
    """FIPO without DAPO's length penalty and clip: gradients are r f A over all tokens."""
    base = method_of("method=fipo", "~method.reward_terms.overlong", "method.advantage.eps=0")
    base = replace(base, surrogate=DualClip(low=1, high=1e6, cap=1e6))

    def make(**fields: object) -> Method:
        part = FutureKLAdvantage(**fields)  # type: ignore[arg-type]  # mixed types
        return replace(base, advantage_shapers={"future_kl": part})

    return make


@pytest.fixture
def pair(batch_of: Callable[..., Batch]) -> Batch:
    """A good rollout of three tokens and a bad one of two."""
    return batch_of([1, 0], lengths=[3, 2])


def view_of(method: Method, batch: Batch, ratios: list[float]) -> View:
    logprobs = torch.tensor(ratios, dtype=torch.float64).log()
    return (
        prepare(method, batch)
        .micro(torch.arange(batch.num_rollouts))
        .table.view(logprobs=logprobs, entropy=logprobs)
    )


def test_the_future_is_the_discounted_sum_of_what_follows(fipo: Callable[..., Method], pair: Batch) -> None:
    # half-life 1: gamma 1/2. d = 1 2 3 units: 1 + 2/2 + 3/4, 2 + 3/2, 3; the other rollout 1 - 4/2, -4
    unit = math.log(2) / 10
    ratios = [math.exp(unit * d) for d in (1, 2, 3, 1, -4)]
    part = FutureKLAdvantage(half_life=1)
    got = part.future_kl(view_of(fipo(), pair, ratios)) / unit
    assert got.tolist() == pytest.approx([2.75, 3.5, 3, -1, -4])


def test_the_sum_is_the_recursion_and_the_double_sum(fipo: Callable[..., Method]) -> None:
    batch = example_batch()
    one = torch.zeros(12, dtype=torch.int64)
    batch = replace(batch, minibatch_of=one, microbatch_of=one)
    method = fipo()
    table = prepare(method, batch).micro(torch.arange(12)).table
    x = torch.randn(table.rollout_of.numel(), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    view = table.view(logprobs=x, entropy=x)
    got = discounted_to_go(x, view, discount=0.9)
    rows = range(x.numel())
    same = table.rollout_of
    recursion, double = [0.0] * x.numel(), [0.0] * x.numel()
    for t in reversed(rows):
        after = recursion[t + 1] if t + 1 < x.numel() and same[t + 1] == same[t] else 0.0
        recursion[t] = float(x[t]) + 0.9 * after
        double[t] = sum(0.9 ** (k - t) * float(x[k]) for k in rows if k >= t and same[k] == same[t])
    assert got.tolist() == pytest.approx(recursion)
    assert got.tolist() == pytest.approx(double)


def test_a_token_that_is_not_there_leaves_its_place(fipo: Callable[..., Method], pair: Batch) -> None:
    # without the middle token the third one is still two places away: 1 + 4 / 4
    view = view_of(fipo(), pair, [1, 1, 1, 1, 1])
    x = torch.tensor([1.0, 9, 4, 0, 0], dtype=torch.float64)
    gone = torch.tensor([True, False, True, True, True])
    short = replace(
        view, rollout_of=view.rollout_of[gone], completion_position=view.completion_position[gone]
    )
    assert discounted_to_go(x[gone], short, discount=0.5).tolist()[0] == pytest.approx(2)


def test_the_influence_multiplies_the_advantage(fipo: Callable[..., Method], pair: Batch, pull: Pull) -> None:
    # half-life 1, ratios 1.1 1 1.05 and 1 0.9: F = ln 1.1 + ln 1.05 / 4, ln 1.05 / 2, ln 1.05 and
    # ln 0.9 / 2, ln 0.9; 5 tokens, A = ±1
    f = [1.1 * 1.05**0.25, 1.05**0.5, 1.05, 0.9**0.5, 0.9]
    ratios = [1.1, 1.0, 1.05, 1.0, 0.9]
    signs = [-1, -1, -1, 1, 1]
    both = pull(fipo(half_life=1, upward_only=False), pair, ratios).tolist()
    assert both == pytest.approx([s * r * w / 5 for s, r, w in zip(signs, ratios, f, strict=True)])
    up = pull(fipo(half_life=1), pair, ratios).tolist()
    assert up == pytest.approx([s * r * max(w, 1) / 5 for s, r, w in zip(signs, ratios, f, strict=True)])


def test_the_influence_is_clipped(fipo: Callable[..., Method]) -> None:
    batch = example_batch()
    method = fipo()
    one = torch.zeros(12, dtype=torch.int64)
    micro = prepare(method, replace(batch, minibatch_of=one, microbatch_of=one)).micro(torch.arange(12))
    logprobs = near_old(batch, spread=1.0).logprobs[micro.rows]
    view = micro.table.view(logprobs=logprobs, entropy=logprobs)
    for part, lowest in ((FutureKLAdvantage(), 1.0), (FutureKLAdvantage(upward_only=False), 0.8)):
        influence = part.influence(view)
        assert influence.min().item() == lowest
        assert influence.max().item() == 1.2


def test_outliers_are_no_part_of_the_future(fipo: Callable[..., Method], pair: Batch) -> None:
    # a ratio of 11 is left out, one of 9 is not; small ratios never are
    part = FutureKLAdvantage(half_life=1)
    got = part.future_kl(view_of(fipo(), pair, [1, 11, 1, 1e-3, 9])).exp().tolist()
    assert got == pytest.approx([1, 1, 1, 1e-3 * 3, 9])


def test_bad_tokens_that_grew_are_not_amplified(fipo: Callable[..., Method], pair: Batch) -> None:
    # F of the bad tokens is positive; the first has ratio 5 > 4, the second 3
    view = view_of(fipo(), pair, [5, 1, 1, 5, 3])
    assert FutureKLAdvantage().influence(view).tolist()[3:] == [1.0, 1.2]
    assert FutureKLAdvantage(safety=None).influence(view).tolist()[3:] == [1.2, 1.2]
    assert FutureKLAdvantage().influence(view).tolist()[0] == 1.2  # a good token may


def test_a_token_of_weight_zero_is_no_part_of_the_future(fipo: Callable[..., Method], pair: Batch) -> None:
    view = view_of(fipo(), pair, [1, 2, 1, 1, 1])
    weights = torch.tensor([1.0, 0, 1, 1, 1], dtype=torch.float64)
    broken = view.logprobs.clone()
    broken[1] = torch.nan
    part = FutureKLAdvantage()
    assert part.future_kl(replace(view, weights=weights, logprobs=broken)).tolist() == [0.0] * 5


def test_with_no_reach_it_is_dapo_bit_by_bit(method_of: Callable[..., Method]) -> None:
    batch = example_batch()
    off = replace(
        method_of("method=fipo"),
        advantage_shapers={"future_kl": FutureKLAdvantage(reach=0, upward_only=False)},
    )
    base = method_of("method=dapo_recipe")
    now = near_old(batch, spread=0.7)
    got, expected = (loss_and_gradient(m, prepare(m, batch), now) for m in (off, base))
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_on_policy_it_is_dapo_bit_by_bit(method_of: Callable[..., Method]) -> None:
    batch = example_batch()
    ours, base = method_of("method=fipo"), method_of("method=dapo_recipe")
    now = near_old(batch, spread=0)
    got, expected = (loss_and_gradient(m, prepare(m, batch), now) for m in (ours, base))
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert "advantage_shapers.future_kl.reach" in inert_keys(replace(ours, updates_per_batch=1))
    assert inert_keys(ours) == {}


def test_it_tells_the_influence_by_sign(fipo: Callable[..., Method], pair: Batch) -> None:
    # F of the last tokens only: half-life 0.001 makes gamma 0
    method = fipo(half_life=1e-3)
    logprobs = torch.tensor([1.1, 1.1, 2.0, 1.0, 0.5], dtype=torch.float64).log()
    told = micro_loss(method, prepare(method, pair).micro(torch.arange(2)), logprobs, logprobs).measured
    means = {k.removeprefix("advantage_shapers.future_kl/"): (a / b).item() for k, (a, b) in told.items()}
    assert means["influence_positive"] == pytest.approx((1.1 + 1.1 + 1.2) / 3)
    assert means["influence_negative"] == 1
    assert means["future_kl"] == pytest.approx(math.log(1.21) / 5)
    assert means["at_upper_bound"] == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"half_life": 0.0}, "half_life must be above 0 tokens"),
        ({"reach": 1.0}, r"reach in \[0, 1\)"),
        ({"safety": 0.5}, "safety must be at least 1"),
        ({"outlier": 0.5}, "outlier must be at least 1"),
    ],
)
def test_an_influence_that_makes_no_sense_is_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FutureKLAdvantage(**fields)  # type: ignore[arg-type]  # all fields given are floats
