"""Mixed-CUTS, arXiv:2604.18493: the group's split and its numbers; CUTS itself is in tests/rollout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch
from tokensweep.methods.mixed_cuts import MixedCuts
from tokensweep.rollout.rules import Cuts, pairs_of


def measured(method: Method, batch: Batch) -> dict[str, float]:
    return {
        name.removeprefix("sampling/"): value
        for name, value in prepare(method, batch).measured.items()
        if name.startswith("sampling/")
    }


def mixed(batch: Batch, ruled: list[float], *, survivors: list[float] | None = None) -> Batch:
    """The batch with some rollouts drawn by CUTS."""
    facts = {"ruled": ruled, "survivors": survivors or [0.0] * len(ruled)}
    return replace(batch, facts={name: torch.tensor(values) for name, values in facts.items()})


@pytest.fixture
def half(method_of: Callable[..., Method]) -> Method:
    """The preset, without its reference model and warm-up."""
    method = method_of("method=mixed_cuts")
    return replace(method, regularizers={}, sampling=MixedCuts(warm_up=0))


@pytest.mark.parametrize(
    ("share", "size", "cuts"),
    [
        (0.5, 16, [8, 9, 10, 11, 12, 13, 14, 15]),
        (0.25, 4, [3]),
        (1.0, 2, [0, 1]),
        (0.0, 4, []),
        (0.3, 10, [7, 8, 9]),
    ],
)
def test_the_last_share_of_a_group_is_drawn_by_cuts(share: float, size: int, cuts: list[int]) -> None:
    rules = MixedCuts(share=share, delta=0.02, top_k=7, warm_up=2).rules(size)
    assert [sample for sample, rule in enumerate(rules) if rule is not None] == cuts
    assert {rule for rule in rules if rule is not None} <= {Cuts(delta=0.02, top_k=7, warm_up=2)}


def test_a_share_that_would_split_a_rollout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"whole rollouts, got 0.5 of batch.group_size=7"):
        MixedCuts().rules(7)


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"share": 1.5}, r"share must be in \[0, 1\]"), ({"delta": 2.0}, "delta"), ({"top_k": 0}, "top_k")],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MixedCuts(**fields)


def test_without_cuts_the_loss_is_the_base_methods(method_of: Callable[..., Method]) -> None:
    off = method_of("method=mixed_cuts", "method.sampling.share=0")
    base = method_of("method=grpo_kl", "method.regularizers.kl.coef=0.001", "method.updates_per_batch=4")
    batch = example_batch()
    now = near_old(batch)
    got = loss_and_gradient(off, prepare(off, batch), now)
    for ours, theirs in zip(got, loss_and_gradient(base, prepare(base, batch), now), strict=True):
        assert torch.equal(ours, theirs)
    assert off.sampling.rules(8) == base.sampling.rules(8) == (None,) * 8
    assert set(off.sampling.inert(updates_per_batch=4)) == {"delta", "top_k", "warm_up"}
    assert method_of("method=mixed_cuts").sampling.inert(updates_per_batch=4) == {}


def test_the_advantage_is_of_the_merged_group(half: Method, batch_of: Callable[..., Batch]) -> None:
    # All plain rollouts are right, half of those by CUTS: mean 3/4, std sqrt(3)/4, for both parts.
    batch = mixed(batch_of([1, 1, 1, 0], lengths=[1, 1, 1, 1]), [0, 0, 1, 1])
    expected = [3**-0.5, 3**-0.5, 3**-0.5, -(3**0.5)]
    assert prepare(half, batch).advantages.tolist() == pytest.approx(expected, abs=1e-4)


def variances(rewards: list[float], ruled: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Of the whole, and of both parts, by torch alone."""
    values, cuts = torch.tensor(rewards, dtype=torch.float64), torch.tensor(ruled) > 0
    one, other = values[~cuts], values[cuts]
    return values.var(correction=0), one.var(correction=0), other.var(correction=0)


@pytest.mark.parametrize("rewards", [[1, 0, 0, 1, 1, 1, 1, 1], [0.3, -0.5, 0.25, 1, 0, 2, 0.125, 0.7]])
def test_the_variance_of_equal_halves_is_their_mean_and_a_quarter_of_the_squared_difference(
    half: Method, batch_of: Callable[..., Batch], rewards: list[float]
) -> None:
    ruled = [0.0] * 4 + [1.0] * 4
    whole, plain, cuts = variances(rewards, ruled)
    difference = sum(rewards[:4]) / 4 - sum(rewards[4:]) / 4
    torch.testing.assert_close(whole, (plain + cuts) / 2 + difference**2 / 4, rtol=1e-14, atol=0)
    numbers = measured(half, mixed(batch_of(rewards, lengths=[1] * 8), ruled))
    assert numbers["between_fraction"] == pytest.approx(difference**2 / 4 / float(whole), rel=1e-12)


def test_the_variance_of_unequal_parts_is_weighted_by_their_sizes(
    half: Method, batch_of: Callable[..., Batch]
) -> None:
    # Plain 1 1 0, mean 2/3; CUTS 0. Whole: mean 1/2, variance 1/4; between 3/16 * 4/9 = 1/12, a third of it.
    numbers = measured(half, mixed(batch_of([1, 1, 0, 0], lengths=[1] * 4), [0, 0, 0, 1]))
    assert numbers["between_fraction"] == pytest.approx(1 / 3)


def test_a_solved_plain_half_beside_a_mistaken_one_is_rescued(
    half: Method, batch_of: Callable[..., Batch]
) -> None:
    # Groups: rescued; solved in both parts; mixed in the plain part already.
    rewards, ruled = [1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1], [0, 0, 1, 1] * 3
    batch = batch_of(rewards, lengths=[1] * 12, prompt_of=[0] * 4 + [1] * 4 + [2] * 4)
    numbers = measured(half, mixed(batch, [float(each) for each in ruled]))
    assert numbers["rescued_groups"] == pytest.approx(1 / 3)
    assert numbers["plain_accuracy"] == pytest.approx(5 / 6)
    assert numbers["cuts_accuracy"] == pytest.approx(5 / 6)
    assert bool((prepare(half, batch).advantages[:4] != 0).all())


def test_groups_without_a_difference_have_no_share_between(
    half: Method, batch_of: Callable[..., Batch]
) -> None:
    numbers = measured(half, mixed(batch_of([1, 1], lengths=[1, 1]), [0, 1]))
    assert "between_fraction" not in numbers
    assert numbers["rescued_groups"] == 0


def test_the_guard_counts_tokens_that_look_like_the_engines_numbers(
    half: Method, batch_of: Callable[..., Batch]
) -> None:
    method = replace(half, sampling=MixedCuts(warm_up=1, top_k=3))
    # By CUTS, after one token of warm-up: -log 2 and -log 3 look uniform; -log 4 (K is 3), -0.5 and 0 do not.
    old = [-math.log(2), -math.log(2), -9, -math.log(2), -math.log(3), -math.log(4), -0.5, 0]
    batch = batch_of([1, 0], lengths=[2, 6])
    batch = batch.with_columns(old_logprobs=torch.tensor(old, dtype=torch.float64))
    assert measured(method, mixed(batch, [0, 1]))["looks_uniform"] == pytest.approx(2 / 5)


def test_survivors_are_what_cuts_chose_from_after_the_warm_up() -> None:
    part = MixedCuts(warm_up=1)
    rollout = SimpleNamespace(sampler_logprobs=(-9.0, -math.log(2), -math.log(4), 0.0))
    drawn: Any = SimpleNamespace(request=SimpleNamespace(rules=pairs_of(Cuts())), rollout=rollout)
    assert part.facts(drawn)["survivors"] == pytest.approx(7 / 3)  # of 2, 4 and 1 tokens
    plain: Any = SimpleNamespace(request=SimpleNamespace(rules=()), rollout=rollout)
    assert part.facts(plain) == {"survivors": 0.0}
    short: Any = SimpleNamespace(request=drawn.request, rollout=SimpleNamespace(sampler_logprobs=(-9.0,)))
    assert part.facts(short) == {"survivors": 0.0}


def test_survivors_are_averaged_over_the_rollouts_that_have_some(
    half: Method, batch_of: Callable[..., Batch]
) -> None:
    batch = mixed(batch_of([1, 0, 1], lengths=[1] * 3), [0, 1, 1], survivors=[0, 1.5, 2.5])
    assert measured(half, batch)["survivors"] == pytest.approx(2)
