"""HTPO, arXiv:2605.08283: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import Policies, example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method, inert_keys
from tokensweep.loss.objective import micro_loss, prepare
from tokensweep.loss.slots import Policy
from tokensweep.loss.tables import Batch, View
from tokensweep.methods.forking_tokens import RankBy
from tokensweep.methods.htpo import CellObjectives, OobSign

MakeBatch = Callable[..., Batch]
Pull = Callable[..., Tensor]

RISING = [1.0, 2.0, 3.0, 4.0, 5.0]  # nats of five tokens: a fifth of them, the last, is high


@pytest.fixture
def htpo(method_of: Callable[..., Method]) -> Method:
    """Without overlong punishment, advantages of ±1 where half are right, entropies of the old policy."""
    plain = ("~method.reward_terms.overlong", "method.advantage.eps=0", "method.surrogate.policy=old")
    return method_of("method=htpo", *plain)


def rule(method: Method, **fields: object) -> Method:
    assert isinstance(method.surrogate, CellObjectives)
    return replace(method, surrogate=replace(method.surrogate, **fields))  # type: ignore[arg-type]  # mixed types


def seen(method: Method, batch: Batch) -> View:
    """All rollouts, which must be one mini-batch, at ratio 1."""
    table = prepare(method, batch).micro(torch.arange(batch.num_rollouts)).table
    old = table.columns["old_logprobs"]
    return table.view(logprobs=old, entropy=old)


def cells(method: Method, batch: Batch) -> list[int]:
    assert isinstance(method.surrogate, CellObjectives)
    return method.surrogate.split(seen(method, batch)).cell.tolist()


def dropped(method: Method, batch: Batch) -> list[int]:
    """Rows without an objective."""
    assert isinstance(method.surrogate, CellObjectives)
    return method.surrogate.split(seen(method, batch)).dropped.nonzero().squeeze(1).tolist()


@pytest.fixture
def five(batch_of: MakeBatch) -> Batch:
    """A prompt with one of two right, one with two of three right; rollouts of five tokens."""
    groups = [0, 0, 1, 1, 1]
    return batch_of([1, 0, 1, 1, 0], lengths=[5] * 5, prompt_of=groups, old_entropy=RISING * 5)


@pytest.fixture
def hard(batch_of: MakeBatch) -> Batch:
    """A right and a wrong rollout of a prompt that half get right: A is 1 and -1, ten tokens."""
    return batch_of([1, 0], lengths=[5, 5], old_entropy=RISING * 2)


def test_the_cells_share_out_the_tokens_by_difficulty_grade_and_entropy(htpo: Method, five: Batch) -> None:
    expected = [1, 1, 1, 1, 2] + [3, 3, 3, 3, 4] + [5, 5, 5, 5, 6] * 2 + [7, 7, 7, 7, 8]
    assert cells(htpo, five) == expected


def test_a_prompt_that_three_of_five_get_right_is_not_hard(htpo: Method, batch_of: MakeBatch) -> None:
    batch = batch_of([1, 1, 1, 0, 0], lengths=[1] * 5, old_entropy=[1] * 5)
    assert cells(htpo, batch) == [6, 6, 6, 8, 8]
    assert cells(rule(htpo, hard_below=0.61), batch) == [2, 2, 2, 4, 4]


def test_difficulty_is_that_of_the_whole_group_though_a_micro_batch_sees_one_rollout(
    htpo: Method, five: Batch
) -> None:
    prepared = prepare(htpo, five)
    table = prepared.micro(torch.tensor([2])).table  # right, alone it would be a prompt of mean grade 1
    other = prepared.micro(torch.tensor([1])).table
    assert table.columns["htpo_hard"].tolist() == [False] * 5
    assert other.columns["htpo_hard"].tolist() == [True] * 5


def test_the_difficulty_moves_right_answers_only(htpo: Method, five: Batch) -> None:
    # 1 <-> 5 and 2 <-> 6 have other rules; 3, 4 and 7, 8 the same
    ratios = [0.5, 2.0, 1.1, 0.7, 0.5, 3.0, 0.7, 1.1, 2.0, 0.5] * 2 + [0.5, 2.0, 1.1, 0.7, 2.5]
    now = Policies(torch.tensor(ratios, dtype=torch.float64).log(), torch.zeros(25, dtype=torch.float64))
    strict = {"drop_low": 0.5, "drop_high": 1.0}
    gradients = []
    for below in (0.0, 1.0):
        method = rule(htpo, hard_below=below, **strict)
        gradients.append(loss_and_gradient(method, prepare(method, five), now)[1])
    moved = (gradients[0] != gradients[1]).reshape(5, 5).any(1)
    assert moved.tolist() == [True, False, True, True, False]


def test_high_are_the_tokens_from_the_kth_largest_up_ties_included(htpo: Method, batch_of: MakeBatch) -> None:
    # 0.2 * 9 = 1.8 -> k = 1: two tokens tie at the top; of 4 tokens k = max(0, 1) = 1
    entropy = [0, 1, 3, 0, 3, 1, 2, 0, 1, 0.1, 0.4, 0.3, 0.2]
    batch = batch_of([1, 0], lengths=[9, 4], old_entropy=entropy)
    assert cells(htpo, batch) == [1, 1, 2, 1, 2, 1, 1, 1, 1, 3, 4, 3, 3]


def test_a_hard_right_answer_drops_its_surest_low_tokens(htpo: Method, batch_of: MakeBatch) -> None:
    # 10 tokens, 2 high, 8 low; floor(0.4 * 8) = 3: strictly below the third smallest are two
    entropy = [0.3, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.4, 1.0, 2.0]
    batch = batch_of([1, 0], lengths=[10, 10], old_entropy=entropy * 2)
    assert dropped(rule(htpo, drop_low=0.4), batch) == [1, 2]
    assert dropped(rule(htpo, drop_low=0.24), batch) == []  # floor(1.92) = 1: none lies below the smallest
    assert dropped(rule(htpo, drop_low=0.4, cells=(2,)), batch) == []


def test_an_easy_right_answer_drops_its_least_sure_high_tokens(htpo: Method, batch_of: MakeBatch) -> None:
    # 10 tokens, 2 high; max(floor(0.02 * 2), 1) = 1: the largest; 0 drops none
    entropy = [0.3, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.4, 1.0, 2.0]
    batch = batch_of([1, 1, 0], lengths=[10] * 3, old_entropy=entropy * 3)
    assert dropped(htpo, batch) == [9, 19]
    assert dropped(rule(htpo, drop_high=1.0), batch) == [8, 9, 18, 19]
    assert dropped(rule(htpo, drop_high=0.0), batch) == []


def test_dropped_tokens_stay_in_the_denominator(htpo: Method, batch_of: MakeBatch, pull: Pull) -> None:
    # rewards 1 1 0: A = 1 / sqrt(2) twice and -sqrt(2); all high tokens of the right ones dropped
    batch = batch_of([1, 1, 0], lengths=[5] * 3, old_entropy=RISING * 3)
    got = pull(rule(htpo, drop_high=1.0), batch, [1.0] * 15)
    right, wrong = -1 / math.sqrt(2) / 15, math.sqrt(2) / 15
    assert got.tolist() == pytest.approx([right] * 4 + [0] + [right] * 4 + [0] + [wrong] * 5)


@pytest.mark.parametrize(
    ("ratio", "right", "wrong"),
    [
        (1.1, 1.1, -1.1),  # in the band: r A
        (2.0, 1.28, -2.0),  # above: (1 + high) A, and r A
        (0.5, 2.0, -0.8),  # below: A / r, and (1 - low) A
        (11.0, 1.28, 0.0),  # dual clip: max(-11, -10) has no gradient
    ],
)
def test_a_fork_of_a_hard_prompt_is_pulled_out_of_the_band_too(
    ratio: float, right: float, wrong: float, htpo: Method, hard: Batch, pull: Pull
) -> None:
    # the loss is minus the objective over 10 tokens; only the last token of each rollout has moved
    got = pull(rule(htpo, drop_low=0.0), hard, [1, 1, 1, 1, ratio] * 2)
    assert got.tolist() == pytest.approx([-0.1] * 4 + [-right / 10] + [0.1] * 4 + [-wrong / 10])


def test_a_wrong_fork_of_an_easy_prompt_is_treated_like_one_of_a_hard_prompt(
    htpo: Method, batch_of: MakeBatch, pull: Pull
) -> None:
    # A = -sqrt(2) over 15 tokens: r A above the band, (1 - low) A below
    batch = batch_of([1, 1, 0], lengths=[5] * 3, old_entropy=RISING * 3)
    for ratio, factor in ((2.0, 2.0), (0.5, 0.8)):
        got = pull(htpo, batch, [1.0] * 14 + [ratio])
        assert got[-1].item() == pytest.approx(factor * math.sqrt(2) / 15)


def test_sure_tokens_and_right_forks_of_easy_prompts_are_clipped_as_by_ppo(
    htpo: Method, batch_of: MakeBatch, pull: Pull, hard: Batch
) -> None:
    # A > 0 with ratio 2 and A < 0 with ratio 0.5 have no gradient
    moved = pull(htpo, hard, [2.0] * 4 + [1.0] + [0.5] * 4 + [1.0])
    assert moved.nonzero().squeeze(1).tolist() == [4, 9]
    easy = batch_of([1, 1, 0], lengths=[5] * 3, old_entropy=RISING * 3)
    got = pull(rule(htpo, drop_high=0.0), easy, [1, 1, 1, 1, 2.0] + [1.0] * 10)
    assert got[4] == 0


def test_as_released_the_out_of_band_terms_have_the_other_sign(htpo: Method, hard: Batch, pull: Pull) -> None:
    released = rule(htpo, oob_sign=OobSign.as_released)
    for ratio in (0.5, 2.0):
        ratios = [1, 1, 1, 1, ratio] * 2
        ours, theirs = pull(htpo, hard, ratios), pull(released, hard, ratios)
        out = torch.zeros(10, dtype=torch.bool)
        out[4] = True
        out[9] = ratio < 1  # above the band a wrong fork has r A in both
        assert torch.equal(torch.where(out, -ours, ours), theirs)


def test_the_objective_is_continuous_but_for_right_forks_below_the_band(htpo: Method, hard: Batch) -> None:
    # r A meets (1 + high) A and (1 - low) A; for right forks it jumps from 0.8 A to A / 0.8
    assert isinstance(htpo.surrogate, CellObjectives)
    view = seen(htpo, hard)

    def at(ratio: float) -> tuple[float, float]:
        value = htpo.surrogate(view, torch.full((10,), math.log(ratio), dtype=torch.float64))
        return value[4].item(), value[9].item()

    assert at(1.28 - 1e-9)[0] == pytest.approx(1.28) == pytest.approx(at(1.28 + 1e-9)[0])
    assert at(0.8 - 1e-9)[1] == pytest.approx(-0.8) == pytest.approx(at(0.8 + 1e-9)[1])
    assert [at(0.8 + 1e-9)[0], at(0.8 - 1e-9)[0]] == pytest.approx([0.8, 1.25])


@pytest.mark.parametrize("policy", Policy)
def test_without_cells_it_is_the_recipe_of_dapo_bit_by_bit(
    policy: Policy, method_of: Callable[..., Method]
) -> None:
    off = rule(method_of("method=htpo"), cells=(), policy=policy)
    recipe = method_of("method=dapo_recipe")
    batch = example_batch()
    now = near_old(batch, spread=0.8)
    got = loss_and_gradient(off, prepare(off, batch), now)
    for ours, theirs in zip(got, loss_and_gradient(recipe, prepare(recipe, batch), now), strict=True):
        assert torch.equal(ours, theirs)


def test_in_the_band_with_nothing_dropped_it_is_dapo_bit_by_bit(method_of: Callable[..., Method]) -> None:
    keeping = rule(method_of("method=htpo"), drop_low=0.0, drop_high=0.0)
    dapo = method_of("method=dapo")
    batch = example_batch()
    now = near_old(batch, spread=0.03)
    got = loss_and_gradient(keeping, prepare(keeping, batch), now)
    for ours, theirs in zip(got, loss_and_gradient(dapo, prepare(dapo, batch), now), strict=True):
        assert torch.equal(ours, theirs)


def slope(cell: int, advantage: float, ratio: float) -> float:
    """The card's table: derivative of the objective by log pi before anything is dropped."""
    out = {
        2: {"above": 1.28, "below": 1 / ratio},
        4: {"above": ratio, "below": 0.8},
        8: {"above": ratio, "below": 0.8},
    }
    where = "above" if ratio > 1.28 else "below" if ratio < 0.8 else "in"
    if cell in out:
        factor = out[cell].get(where, ratio)
    elif (advantage > 0 and where == "above") or (advantage < 0 and where == "below"):
        factor = 0.0
    else:
        factor = ratio
    if advantage < 0 and factor > 10:  # the dual clip
        factor = 0.0
    return factor * advantage


def test_on_random_tables_each_token_has_the_slope_of_its_cell(method_of: Callable[..., Method]) -> None:
    method = rule(method_of("method=htpo"), drop_low=0.0, drop_high=0.0)
    one = torch.zeros(12).long()
    batch = replace(example_batch(), minibatch_of=one, microbatch_of=one)
    now = near_old(batch, spread=1.5)
    prepared = prepare(method, batch)
    _, gradient = loss_and_gradient(method, prepared, now)
    high: list[bool] = []
    for rollout in range(12):
        of_one = now.entropy[batch.rollout_of == rollout].tolist()
        high += [x >= sorted(of_one)[-max(int(0.2 * len(of_one)), 1)] for x in of_one]
    group = [batch.accuracy[batch.prompt_of == prompt].mean().item() for prompt in range(3)]
    ratios = (now.logprobs - batch.columns["old_logprobs"]).exp().tolist()
    expected = []
    for row, rollout in enumerate(batch.rollout_of.tolist()):
        wrong, easy = batch.accuracy[rollout].item() == 0, group[int(batch.prompt_of[rollout])] >= 0.6
        cell = 1 + high[row] + 2 * wrong + 4 * easy
        expected.append(-slope(cell, prepared.advantages[row].item(), ratios[row]) / batch.num_tokens)
    assert gradient.tolist() == pytest.approx(expected)
    assert {group[0], group[1]} == {0.5, 0.25}  # the third prompt is easy, and right throughout


def test_a_token_of_weight_zero_has_no_rank(htpo: Method, hard: Batch) -> None:
    # without the last, the fourth of each rollout is the most uncertain
    view = seen(htpo, hard)
    weights = torch.tensor([1.0, 1, 1, 1, 0] * 2, dtype=torch.float64)
    assert isinstance(htpo.surrogate, CellObjectives)
    cell = htpo.surrogate.split(replace(view, weights=weights)).cell
    assert cell[[3, 8]].tolist() == [2, 4]


def test_random_ranks_make_sets_of_the_same_size(htpo: Method, hard: Batch) -> None:
    method = rule(htpo, rank_by=RankBy.random)
    batch = hard.with_columns(uniform=torch.tensor([0.9, 0.1, 0.2, 0.3, 0.4] * 2, dtype=torch.float64))
    assert cells(method, batch) == [2, 1, 1, 1, 1, 4, 3, 3, 3, 3]
    assert "old_entropy" not in method.surrogate.needs


def test_the_clip_fraction_counts_what_is_limited(htpo: Method, hard: Batch) -> None:
    ratios = [2.0, 0.5, 1.0, 1.0, 2.0, 0.5, 2.0, 11.0, 1.0, 0.5]
    got = htpo.surrogate.clipped(seen(htpo, hard), torch.tensor(ratios, dtype=torch.float64).log())
    # PPO's clip, no, -, -, (1 + high) A; PPO's clip, no, the dual clip, -, (1 - low) A
    assert got.tolist() == [True, False, False, False, True, True, False, True, False, True]


def test_its_numbers_count_prompts_cells_and_what_happens_to_tokens(htpo: Method, five: Batch) -> None:
    # 25 tokens; the right fork of the hard prompt is above the band, the wrong fork of the easy one below
    method = rule(htpo, drop_low=0.5)
    ratios = [1.0] * 4 + [2.0] + [1.0] * 19 + [0.5]
    logprobs = torch.tensor(ratios, dtype=torch.float64).log()
    prepared = prepare(method, five)
    assert prepared.measured == {"surrogate/hard_fraction": 0.5}
    got = micro_loss(method, prepared.micro(torch.arange(5)), logprobs, logprobs).measured
    counts = {name.removeprefix("surrogate/"): (int(a), int(b)) for name, (a, b) in got.items()}
    cells = {1: 4, 2: 1, 3: 4, 4: 1, 5: 8, 6: 2, 7: 4, 8: 1}
    assert counts == {
        **{f"cell_{cell}_fraction": (number, 25) for cell, number in cells.items()},
        "dropped_fraction": (3, 25),  # one of four low tokens in cell 1, both tokens of cell 6
        "rescued_fraction": (2, 25),
    }


def test_its_bounds_have_no_effect_with_one_update(htpo: Method) -> None:
    assert inert_keys(htpo) == {}
    single = set(inert_keys(replace(htpo, updates_per_batch=1)))
    assert single == {"surrogate.low", "surrogate.high", "surrogate.cap", "surrogate.oob_sign"}
    assert "surrogate.policy" in inert_keys(rule(htpo, rank_by=RankBy.random))


def test_the_presets_hold_what_the_code_says(method_of: Callable[..., Method]) -> None:
    ours, released = method_of("method=htpo"), method_of("method=htpo_as_released")
    assert isinstance(ours.surrogate, CellObjectives)
    assert (ours.surrogate.low, ours.surrogate.high, ours.surrogate.cap) == (0.2, 0.28, 10)
    assert (ours.surrogate.hard_below, ours.surrogate.fraction) == (0.6, 0.2)
    assert (ours.surrogate.drop_low, ours.surrogate.drop_high) == (0.006, 0.02)
    assert released.surrogate == replace(ours.surrogate, oob_sign=OobSign.as_released)
    dapo = method_of("method=dapo")
    assert replace(ours, name="dapo", surrogate=dapo.surrogate, updates_per_batch=16) == dapo
    assert ours.updates_per_batch == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\], got 0"),
        ({"drop_low": -0.1}, r"drop_low and drop_high must be in \[0, 1\], got -0.1 and 0.02"),
        ({"cells": (1, 3)}, r"the others have no rule, got \[3\]"),
        ({"cap": 1.0}, "cap must be above 1"),
    ],
)
def test_rules_that_make_no_sense_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CellObjectives(**fields)  # type: ignore[arg-type]  # mixed types
