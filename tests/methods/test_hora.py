"""HORA, arXiv:2605.07114: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import islice, pairwise, product

import pytest
import torch
from torch import Tensor

from tokensweep.compose import freeze_run, register_components
from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.outcomes import Outcomes
from tokensweep.loss.tables import Batch, Unit
from tokensweep.methods.group_weight import EqualPrompts
from tokensweep.methods.grpo import TokenMean
from tokensweep.methods.hora import HitUtilityAllocation, Offset, greedy


def probed(*right: int, g0: int = 4, group_size: int = 16) -> Outcomes:
    """After a first round in which prompts got so many right probes, the right ones last."""
    grades = tuple(torch.tensor([0.0] * (g0 - count) + [1.0] * count) for count in right)
    return Outcomes(round=1, num_prompts=len(right), group_size=group_size, grades=grades)


def sizes(hora: HitUtilityAllocation, outcomes: Outcomes) -> list[int]:
    """Rollouts of each prompt when the step is over."""
    return [hora.g0 + extra for extra in hora.wanted(outcomes)]


def test_the_preset_departs_from_grpo_in_the_allocation_alone(method_of: Callable[..., Method]) -> None:
    hora, grpo = method_of("method=hora"), method_of("method=grpo")
    assert hora.allocation == HitUtilityAllocation()
    assert replace(hora, name="grpo", allocation=grpo.allocation) == grpo


def test_utility_starts_at_zero_and_rises_ever_less_towards_one() -> None:
    # c = 2 of 4: Beta(3, 3), so the first extra rollout is right with probability 1/2
    utility = [HitUtilityAllocation().utility(2, extra) for extra in range(60)]
    gains = [after - before for before, after in pairwise(utility)]
    assert utility[:2] == [0, 0.5]
    assert all(gain > 0 for gain in gains)
    assert all(later < earlier for earlier, later in pairwise(gains))
    assert HitUtilityAllocation().utility(2, 3000) > 0.9999


@pytest.mark.parametrize("g0", [1, 4, 8])
def test_after_no_right_probe_the_utility_is_g_over_g_plus_g0_plus_one(g0: int) -> None:
    # Beta(1, 1 + g0): E[(1 - p)^g] = (1 + g0) / (1 + g0 + g)
    hora = HitUtilityAllocation(g0=g0)
    for extra in (0, 1, 2, 7, 40):
        assert hora.utility(0, extra) == pytest.approx(extra / (extra + g0 + 1), abs=1e-15)


def test_gains_are_the_moments_of_the_posterior() -> None:
    # Beta(2, 4) after c = 1: E[p] = 1/3, E[p(1-p)] = 2*4 / (6*7), E[p(1-p)^2] = 2*4*5 / (6*7*8)
    expected = [Fraction(1, 3), Fraction(8, 42), Fraction(40, 336)]
    assert list(islice(HitUtilityAllocation().gains(1), 3)) == expected


def test_with_the_probes_in_the_exponent_gains_start_g0_later() -> None:
    # Beta(2, 4): E[p(1-p)^4] = 2/6 * (4*5*6*7) / (7*8*9*10) = 280/5040 = 1/18
    mass_aware = HitUtilityAllocation(exponent_offset=Offset.probes)
    assert next(mass_aware.gains(1)) == Fraction(1, 18)
    plain = islice(HitUtilityAllocation().gains(1), 4, 10)
    assert list(islice(mass_aware.gains(1), 6)) == list(plain)


@pytest.mark.parametrize(
    ("g0", "mean", "expected"),
    [
        (4, 16, [29, 19, 14, 10, 8]),
        (4, 8, [10, 9, 8, 7, 6]),
        (8, 16, [25, 22, 19, 16, 15, 13, 12, 11, 11]),
    ],
)
def test_sizes_are_those_that_the_card_computed_for_itself(g0: int, mean: int, expected: list[int]) -> None:
    hora = HitUtilityAllocation(g0=g0)
    got = sizes(hora, probed(*range(g0 + 1), g0=g0, group_size=mean))
    assert got == expected
    assert sum(got) == mean * (g0 + 1)


def test_a_step_has_as_many_rollouts_as_under_uniform_allocation() -> None:
    draw = torch.Generator().manual_seed(0)
    for mean in (4, 5, 7, 16):
        right = torch.randint(0, 5, (13,), generator=draw).tolist()
        got = sizes(HitUtilityAllocation(), probed(*right, group_size=mean))
        assert sum(got) == 13 * mean
        assert min(got) >= 4


def test_probes_that_use_up_the_budget_are_the_uniform_allocation() -> None:
    hora = HitUtilityAllocation()
    start = Outcomes(num_prompts=3, group_size=4)
    assert list(hora.wanted(start)) == [4, 4, 4]
    assert list(hora.wanted(probed(0, 2, 4, group_size=4))) == [0, 0, 0]


@pytest.mark.parametrize("offset", list(Offset))
def test_greedy_is_as_good_as_the_best_of_all_divisions(offset: Offset) -> None:
    for g0, prior in ((1, (1.0, 1.0)), (2, (0.5, 2.0)), (4, (1.0, 1.0))):
        hora = HitUtilityAllocation(g0=g0, prior_alpha=prior[0], prior_beta=prior[1], exponent_offset=offset)
        for right in product(range(g0 + 1), repeat=3):
            gains = [list(islice(hora.gains(count), 6)) for count in right]
            for budget in range(7):
                divisions = (d for d in product(range(budget + 1), repeat=3) if sum(d) == budget)
                best = max(sum(sum(gains[i][:g]) for i, g in enumerate(d)) for d in divisions)
                got = greedy([hora.gains(count) for count in right], budget=budget)
                assert sum(got) == budget
                assert sum(sum(gains[i][:g]) for i, g in enumerate(got)) == best


def test_prompts_in_another_order_get_the_same_sizes() -> None:
    hora, right = HitUtilityAllocation(), (0, 3, 1, 4, 2)
    by_count = dict(zip(right, sizes(hora, probed(*right)), strict=True))
    for order in ((4, 3, 2, 1, 0), (2, 0, 4, 1, 3)):
        assert sizes(hora, probed(*order)) == [by_count[count] for count in order]


def test_prompts_with_equal_probes_differ_by_one_at_most_and_the_first_gets_it() -> None:
    # 3 prompts, 3 * (7 - 4) = 9 extra rollouts for two counts; and a budget of 4 for three equal ones
    assert greedy([HitUtilityAllocation().gains(2) for _ in range(3)], budget=4) == [2, 1, 1]
    got = sizes(HitUtilityAllocation(), probed(0, 3, 0, 3, 0, 0, group_size=7))
    for equal in ([got[0], got[2], got[4], got[5]], [got[1], got[3]]):
        assert max(equal) - min(equal) <= 1
        assert equal == sorted(equal, reverse=True)


def test_a_small_budget_goes_to_easy_prompts_and_a_large_one_to_hard_ones() -> None:
    hora = HitUtilityAllocation()
    first = [next(hora.gains(count)) for count in range(5)]
    assert first == [Fraction(count + 1, 6) for count in range(5)]  # (c + 1) / (G0 + 2)
    assert greedy([hora.gains(count) for count in range(5)], budget=1) == [0, 0, 0, 0, 1]
    large = sizes(hora, probed(0, 1, 2, 3, 4, group_size=40))
    assert large == sorted(large, reverse=True)


def test_bounds_hold_and_the_budget_is_still_spent() -> None:
    # unbounded: 29, 19, 14, 10, 8
    right = (0, 1, 2, 3, 4)
    capped = sizes(HitUtilityAllocation(largest=20), probed(*right))
    assert max(capped) == 20
    assert sum(capped) == 80
    raised = sizes(HitUtilityAllocation(smallest=12), probed(*right))
    assert min(raised) == 12
    assert sum(raised) == 80
    assert sizes(HitUtilityAllocation(smallest=16, largest=16), probed(*right)) == [16] * 5


def test_two_rounds_are_all() -> None:
    hora = HitUtilityAllocation()
    assert not hora.wanted(replace(probed(0, 4), round=2))
    assert hora.keep(torch.zeros(4))


def test_only_the_probes_decide_and_grades_between_zero_and_one_are_cut_at_the_threshold() -> None:
    outcomes = Outcomes(
        round=1,
        num_prompts=2,
        group_size=8,
        grades=(torch.tensor([0.4, 0.4, 0.4, 0.4]), torch.tensor([0.6, 0.6, 0.6, 0.6])),
    )
    assert sizes(HitUtilityAllocation(), outcomes) == sizes(
        HitUtilityAllocation(), probed(0, 4, group_size=8)
    )


def test_its_numbers_say_what_was_given_and_what_came_of_it() -> None:
    # G0 = 1, uniform prior. c = 0: Beta(1, 2), U(g) = g / (g + 2); c = 1: Beta(2, 1), U(1) = 2/3, and
    # U(2) = 1 - E[(1 - p)^2] = 1 - 1*2 / (3*4) = 5/6. Extra grades (0, 1), (0) and (1, 0), the mean is 2.
    grades = [[0, 0, 1], [0, 0], [1, 1, 0]]
    outcomes = Outcomes(
        round=2,
        num_prompts=3,
        group_size=3,
        grades=tuple(torch.tensor(each, dtype=torch.float32) for each in grades),
    )
    assert HitUtilityAllocation(g0=1).sampling_metrics(outcomes) == pytest.approx(
        {
            "size_after_0": 2.5,
            "size_after_1": 3.0,
            "hits": 2 / 3,
            "rescued": 1 / 2,
            "expected_hits": (1 / 2 + 1 / 3 + 5 / 6) / 3,
            "uniform_hits": (1 / 2 + 1 / 2 + 5 / 6) / 3,
        }
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("method.allocation.g0=9", "must be at least 9, got 8"),
        ("method.allocation.smallest=10", "must be at least 10, got 8"),
        ("method.allocation.largest=6", "must be at least 4 and at most 6, got 8"),
        ("method.allocation.g0=1", "groups must have at least 2 rollouts for the advantage GroupNormalised"),
        ("method.allocation.g0=0", "g0 must be at least 1, got 0"),
        ("method.allocation.prior_beta=0", "prior_beta must be positive, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_the_start(overrides: str, said: str) -> None:
    register_components()
    with pytest.raises(ValueError, match=said):
        freeze_run(["method=hora", "batch.group_size=8", overrides])


def test_one_probe_is_enough_where_groups_are_filled_up() -> None:
    register_components()
    assert freeze_run(["method=hora", "method.allocation.g0=1", "method.allocation.smallest=2"])


# The weight of a prompt, for groups of any size.


def test_equal_prompts_make_the_rollout_mean_one_over_prompts(
    batch_of: Callable[..., Batch], pull: Callable[..., Tensor], method_of: Callable[..., Method]
) -> None:
    # Groups of 2 and 3 rollouts of one token. 1/P 1/G = 1/4 and 1/6 of the advantage, and not 1/5
    batch = batch_of([1, 0, 1, 0, 0], lengths=[1] * 5, prompt_of=[0, 0, 1, 1, 1])
    grpo = method_of("method=grpo")
    equal = replace(grpo, token_weights={"group": EqualPrompts()})
    advantages = prepare(grpo, batch).advantages
    share = torch.tensor([1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6], dtype=torch.float64)
    torch.testing.assert_close(pull(equal, batch, [1] * 5), -advantages * share)
    torch.testing.assert_close(pull(grpo, batch, [1] * 5), -advantages / 5)


def test_equal_prompts_make_the_token_mean_one_over_prompts(
    batch_of: Callable[..., Batch], pull: Callable[..., Tensor], method_of: Callable[..., Method]
) -> None:
    # 4 tokens of the first prompt, 2 of the second: 1/2 1/4 and 1/2 1/2
    batch = batch_of([1, 0, 1, 0], lengths=[3, 1, 1, 1], prompt_of=[0, 0, 1, 1])
    grpo = replace(method_of("method=grpo"), aggregate=TokenMean())
    equal = replace(grpo, token_weights={"group": EqualPrompts(unit=Unit.token)})
    share = torch.tensor([1 / 8] * 4 + [1 / 4] * 2, dtype=torch.float64)
    torch.testing.assert_close(pull(equal, batch, [1] * 6), -prepare(grpo, batch).advantages * share)


def test_groups_of_one_size_are_what_they_were(method_of: Callable[..., Method]) -> None:
    batch, grpo = example_batch(), method_of("method=grpo")
    equal = replace(grpo, token_weights={"group": EqualPrompts()})
    now = near_old(batch)
    got = loss_and_gradient(equal, prepare(equal, batch), now)
    expected = loss_and_gradient(grpo, prepare(grpo, batch), now)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
