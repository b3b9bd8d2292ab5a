"""The cancellation hypothesis, arXiv:2605.08666: the properties of its card, with numbers by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tokensweep.compose import freeze_run, register_components
from tokensweep.loss.laws import Policies, example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method, build_method, inert_keys
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch, Scope
from tokensweep.methods.cancellation import (
    Balance,
    BalancedRollouts,
    BalancedSigns,
    Measure,
    MinibatchSigns,
    OneSign,
    QueryPreserved,
    Sign,
    balanced_bins,
    even_bins,
    signed_size,
)
from tokensweep.methods.grpo import ShuffledMinibatch
from tokensweep.train.batch import divide

MakeBatch = Callable[..., Batch]
RIGHT = [4, 1, 3, 2, 5, 1, 0, 4, 2, 3, 5, 1]  # right rollouts of six in each group


@pytest.fixture
def groups(batch_of: MakeBatch) -> Batch:
    """Twelve groups of six rollouts of one to three tokens."""
    rewards = [float(place < right) for right in RIGHT for place in range(6)]
    return batch_of(
        rewards,
        lengths=[1 + place % 3 for place in range(72)],
        prompt_of=[group for group in range(12) for _ in range(6)],
        uniform=torch.rand(144, generator=torch.Generator().manual_seed(0)).tolist(),
    )


@pytest.fixture
def base(method_of: Callable[..., Method]) -> Method:
    return method_of("method=grpo", "method.updates_per_batch=4")


def divided(method: Method, batch: Batch, *, seed: int = 0) -> Batch:
    return divide(batch, method=method, micro_tokens=10, seed=seed)[0]


def imbalance(batch: Batch) -> float:
    """The largest difference between right and wrong rollouts with an advantage in a mini-batch."""
    mixed = ~batch.equal_rewards[batch.prompt_of]
    sign = torch.where(mixed, 2 * batch.rewards - 1, 0.0)
    sums = torch.zeros(4, dtype=sign.dtype).index_add(0, batch.minibatch_of, sign)
    return float(sums.abs().max())


@pytest.mark.parametrize("balance", Balance)
@pytest.mark.parametrize("seed", range(5))
def test_a_prompt_is_in_one_mini_batch_and_all_are_of_one_size(
    base: Method, groups: Batch, balance: Balance, seed: int
) -> None:
    got = divided(replace(base, minibatch=QueryPreserved(balance=balance)), groups, seed=seed)
    pairs = set(zip(got.prompt_of.tolist(), got.minibatch_of.tolist(), strict=True))
    assert len(pairs) == 12
    assert torch.bincount(got.minibatch_of).tolist() == [18] * 4


def test_shuffling_rollouts_does_split_prompts(base: Method, groups: Batch) -> None:
    got = divided(base, groups)
    assert len(set(zip(got.prompt_of.tolist(), got.minibatch_of.tolist(), strict=True))) > 12


def test_mini_batches_follow_the_seed(groups: Batch) -> None:
    one, same, other = (QueryPreserved()(groups, num_minibatches=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("seed", range(5))
def test_assigned_mini_batches_are_no_less_balanced_than_random_ones(
    base: Method, groups: Batch, seed: int
) -> None:
    random = divided(replace(base, minibatch=QueryPreserved()), groups, seed=seed)
    assigned = divided(replace(base, minibatch=QueryPreserved(balance=Balance.assign)), groups, seed=seed)
    assert imbalance(assigned) <= imbalance(random)
    # right minus wrong are 2 -4 0 -2 4 -4 (-6: all wrong, no advantage) 2 -2 0 4 -4, in all -4
    assert imbalance(assigned) <= 2


def test_groups_of_many_sizes_are_packed_the_largest_first() -> None:
    # 5 and 4 open the bins, 3 joins 4, 3 joins 5, 1 joins 4 + 3
    assert even_bins([0, 1, 2, 3, 4], sizes=[1, 3, 5, 3, 4], count=2) == [[2, 3], [4, 1, 0]]


def test_surpluses_are_placed_the_largest_first_where_the_sum_gets_smallest() -> None:
    # 6 comes first, -5 joins it (1 is closer to 0 than -5) and fills the bin; -4 and 1 share the other
    assert balanced_bins([0, 1, 2, 3], sizes=[2] * 4, room=[4, 4], surplus=[1, 6, -5, -4]) == [[1, 2], [3, 0]]


def test_a_group_without_room_goes_where_most_is_left_and_no_bin_stays_empty() -> None:
    # -3 (size 2) and 2 (size 2) leave room 1 in the first bin and 3 in the second; 1 (size 4) fits nowhere
    got = balanced_bins([0, 1, 2], sizes=[2, 2, 4], room=[5, 3], surplus=[-3, 2, 1])
    assert got == [[0, 1], [2]]


def test_sizes_by_each_measure(batch_of: MakeBatch) -> None:
    # two rollouts of 2 and 1 tokens with advantages 3 and -1 per token
    advantages = torch.tensor([3.0, 3.0, -1.0])
    of, lengths = torch.tensor([0, 0, 1]), torch.tensor([2, 1])

    def sizes(measure: Measure) -> list[float]:
        return signed_size(advantages, of, lengths, measure=measure).tolist()

    assert sizes(Measure.count) == [1, -1]
    assert sizes(Measure.abs_adv) == [3, -1]
    assert sizes(Measure.token_abs_adv) == [6, -1]


def test_whole_groups_have_advantages_that_add_up_to_nothing(base: Method, groups: Batch) -> None:
    def sums(minibatch: Any) -> Tensor:
        batch = divided(replace(base, minibatch=minibatch), groups)
        advantages = prepare(base, batch).advantages
        mean = batch.by_rollout(advantages) / batch.lengths  # a rollout's, whatever its length
        return torch.zeros(4, dtype=mean.dtype).index_add(0, batch.minibatch_of, mean)

    assert sums(QueryPreserved()).abs().max() < 1e-9
    assert sums(ShuffledMinibatch()).abs().max() > 0.5


def test_it_tells_how_even_and_how_whole_its_mini_batches_are(base: Method, batch_of: MakeBatch) -> None:
    # two groups with 1 right of 2, 3 rollouts in one mini-batch and the last, a wrong one, in another:
    # (2 - 1) / 3 and 1 / 1, and one group of two is split
    batch = batch_of([1, 0, 1, 0], lengths=[1, 2, 1, 3], prompt_of=[0, 0, 1, 1])
    parts = torch.tensor([0, 0, 0, 1])
    cut = replace(batch, minibatch_of=parts, microbatch_of=parts)
    prepared = prepare(replace(base, minibatch=QueryPreserved()), cut)
    told = {"split_fraction": 0.5, "imbalance": pytest.approx((1 / 3 + 1) / 2)}
    measured = {name: value for name, value in prepared.measured.items() if name.startswith("minibatch/")}
    assert measured == {f"minibatch/{name}": value for name, value in told.items()}
    assert MinibatchSigns()(prepared.batch.with_columns(advantages=prepared.advantages)) == told


def test_without_advantages_nothing_is_uneven(base: Method, batch_of: MakeBatch) -> None:
    batch = batch_of([1, 1], lengths=[1, 2])
    assert MinibatchSigns()(batch.with_columns(advantages=prepare(base, batch).advantages)) == {
        "split_fraction": 0.0
    }


def test_one_token_at_one_state_with_both_signs_does_not_move(base: Method, batch_of: MakeBatch) -> None:
    # the same logits, A = 1 and -1: in one mini-batch the pull on them is (1 - 1)(e_y - p) = 0
    batch = batch_of([1, 0], lengths=[1, 1])
    logits = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def pull(parts: list[list[int]]) -> list[Tensor]:
        found = []
        for part in parts:
            z = logits.clone().requires_grad_()
            logprobs = torch.log_softmax(z, 0)[3].expand(2)
            whole = batch.with_columns(old_logprobs=logprobs.detach())
            now = Policies(logprobs.detach(), torch.zeros(2, dtype=torch.float64))
            _, gradient = loss_and_gradient(base, prepare(base, whole), now, cut=[part])
            found.append(torch.autograd.grad((gradient * logprobs).sum(), z)[0])
        return found

    assert pull([[0, 1]])[0].abs().max() < 1e-15
    assert pull([[0], [1]])[0].abs().max() > 0.01


@pytest.mark.parametrize("balance", Balance)
def test_with_one_update_the_choice_of_mini_batches_means_nothing(
    base: Method, groups: Batch, balance: Balance
) -> None:
    strict = replace(base, updates_per_batch=1)
    kept = replace(strict, minibatch=QueryPreserved(balance=balance))
    now = near_old(groups)
    expected = loss_and_gradient(strict, prepare(strict, groups), now)
    batch = divided(kept, groups)
    assert set(batch.minibatch_of.tolist()) == {0}
    got = loss_and_gradient(kept, prepare(kept, batch), now)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    assert inert_keys(kept).keys() >= {"minibatch.balance", "minibatch.balance_measure"}


@pytest.mark.parametrize("measure", Measure)
def test_scaled_signs_weigh_the_same_in_every_mini_batch(
    base: Method, groups: Batch, measure: Measure
) -> None:
    shaper = {"balance": BalancedSigns(balance_measure=measure)}
    batch = divided(replace(base, minibatch=QueryPreserved()), groups)
    before, after = (prepare(replace(base, advantage_shapers=s), batch).advantages for s in ({}, shaper))
    assert torch.equal(before.sign(), after.sign())
    factor = torch.where(before != 0, after / before, 1.0)
    length = batch.lengths[batch.rollout_of]
    size = {
        Measure.count: (before != 0) / length,
        Measure.abs_adv: before.abs() / length,
        Measure.token_abs_adv: before.abs(),
    }[measure]
    for mini in range(4):
        here = batch.minibatch_of[batch.rollout_of] == mini
        up, down = (float((factor * size)[here & of].sum()) for of in (before > 0, before < 0))
        assert up == pytest.approx(down)
        assert up + down == pytest.approx(float(size[here].sum()))


def test_a_segment_of_one_sign_stays_as_it_is(base: Method, batch_of: MakeBatch) -> None:
    batch = batch_of([1, 0], lengths=[1, 2])
    cut = replace(batch, minibatch_of=torch.tensor([0, 1]), microbatch_of=torch.tensor([0, 1]))
    shaped = replace(base, advantage_shapers={"balance": BalancedSigns()})
    assert torch.equal(prepare(shaped, cut).advantages, prepare(base, cut).advantages)


def test_scaled_signs_by_hand(base: Method, batch_of: MakeBatch) -> None:
    # one right, three wrong: A = sqrt 3, -1 / sqrt 3; counts 1 and 3, so the factors are 4 / 2 and 4 / 6
    batch = batch_of([1, 0, 0, 0], lengths=[1, 1, 1, 1])
    shaped = replace(base, advantage_shapers={"balance": BalancedSigns(scope=Scope.batch)})
    got = prepare(shaped, batch)
    assert got.advantages.tolist() == pytest.approx([2 * 3**0.5] + [-(2 / 3) / 3**0.5] * 3, rel=1e-5)
    # (2 sqrt 3) / (2 sqrt 3 + 2 / sqrt 3) = 6 / 8
    assert got.measured["advantage_shapers.balance/positive_fraction"] == pytest.approx(0.75)


def test_the_more_frequent_sign_is_thinned_by_lot(base: Method, batch_of: MakeBatch) -> None:
    # one right, three wrong with lots 0.3 0.9 0.1 at their first tokens; the second group says nothing
    batch = batch_of(
        [1, 0, 0, 0, 1, 1],
        lengths=[1, 2, 1, 2, 1, 1],
        prompt_of=[0, 0, 0, 0, 1, 1],
        uniform=[0.5, 0.3, 1, 0.9, 0.1, 1, 0.5, 0.5],
    )
    thinned = replace(base, token_weights={"balance": BalancedRollouts()})
    assert prepare(thinned, batch).weights.tolist() == [1, 0, 0, 1, 0, 0, 1, 1]


def test_thinned_signs_are_as_many_in_every_mini_batch(base: Method, groups: Batch) -> None:
    batch = divided(replace(base, minibatch=QueryPreserved()), groups)
    prepared = prepare(replace(base, token_weights={"balance": BalancedRollouts()}), batch)
    first = batch.completion_position == 0
    weights, sign = prepared.weights[first], prepared.advantages[first].sign()
    for mini in range(4):
        here = batch.minibatch_of == mini
        counts = [int((sign[here] == s).sum()) for s in (-1, 1)]
        assert [float(weights[here & (sign == s)].sum()) for s in (-1, 1)] == [min(counts)] * 2
        assert (weights[here & (sign == 0)] == 1).all()


@pytest.mark.parametrize(("sign", "kept"), [(Sign.positive, [1, 0]), (Sign.negative, [0, -1])])
def test_one_sign_alone_can_be_trained(
    base: Method, batch_of: MakeBatch, sign: Sign, kept: list[float]
) -> None:
    alone = replace(base, advantage_shapers={"sign": OneSign(sign=sign)})
    assert prepare(alone, batch_of([1, 0], lengths=[1, 1])).advantages.tolist() == pytest.approx(
        kept, abs=1e-5
    )


def test_fewer_groups_than_updates_make_fewer_mini_batches(base: Method) -> None:
    kept = replace(base, minibatch=QueryPreserved())
    assert set(divided(kept, example_batch()).minibatch_of.tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="3 groups must be dealt into 1 to 3 mini-batches, got 4"):
        QueryPreserved()(example_batch(), num_minibatches=4, seed=0)


def test_more_updates_than_prompts_are_refused_before_the_start() -> None:
    register_components()
    with pytest.raises(ValueError, match=r"at most batch\.prompts=4 where mini-batches keep groups whole"):
        freeze_run(["method=cancellation", "method.updates_per_batch=8", "batch.prompts=4"])


def test_signs_that_come_too_late_cannot_be_balanced(method_node: Callable[..., dict[str, Any]]) -> None:
    node = method_node("method=rloo")  # its penalty is part of the reward
    assigned = {"_component_": "method/minibatch/query_preserved", "balance": "assign"}
    with pytest.raises(ValueError, match="assign must know the advantages before the old-policy pass"):
        build_method({**node, "minibatch": assigned})


def test_the_presets_are_one_intervention_each(method_of: Callable[..., Method]) -> None:
    plain, balanced = method_of("method=cancellation"), method_of("method=cancellation_balanced")
    assert plain.minibatch == QueryPreserved()
    assert balanced == replace(
        plain, name="cancellation_balanced", minibatch=QueryPreserved(balance=Balance.assign)
    )
