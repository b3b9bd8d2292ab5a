"""Batches: how they are packed, joined and cut into segments."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tokensweep.loss.laws import example_batch
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch, Scope, pack, sum_by


def packed() -> Batch:
    """Three rollouts of two prompts: 2 + 3, 2 + 1 and 1 + 2 tokens."""
    return pack(
        [[10, 11], [10, 11], [20]],
        completions=[[12, 13, 14], [15], [21, 22]],
        prompt_of=[0, 0, 1],
        accuracy=[1, 0, 1],
        truncated=[False, False, True],
        max_tokens=3,
    )


def test_packing_lays_prompts_and_completions_end_to_end() -> None:
    batch = packed()
    assert batch.token_ids.tolist() == [10, 11, 12, 13, 14, 10, 11, 15, 20, 21, 22]
    assert batch.sequence_of.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert batch.position.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2]
    assert batch.trained.tolist() == [2, 3, 4, 7, 9, 10]
    assert batch.lengths.tolist() == [3, 1, 2]
    assert batch.rewards.tolist() == batch.accuracy.tolist() == [1, 0, 1]


def test_trained_tokens_know_their_rollout_and_their_place() -> None:
    batch = packed()
    assert batch.rollout_of.tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.completion_position.tolist() == [0, 1, 2, 0, 0, 1]
    assert (batch.num_tokens, batch.num_rollouts, batch.num_prompts) == (6, 3, 2)


def test_sums_go_from_tokens_to_rollouts_to_prompts() -> None:
    batch = packed()
    by_rollout = batch.by_rollout(torch.tensor([1.0, 2, 3, 4, 5, 6]))
    assert by_rollout.tolist() == [6, 4, 11]
    assert batch.by_prompt(by_rollout).tolist() == [10, 11]


def test_groups_of_one_reward_are_known() -> None:
    assert packed().equal_rewards.tolist() == [False, True]
    assert replace(packed(), rewards=torch.full((3,), 0.1)).equal_rewards.tolist() == [True, True]


def test_a_rollout_without_tokens_keeps_its_row() -> None:
    batch = pack(
        [[1], [1]],
        completions=[[], [2]],
        prompt_of=[0, 0],
        accuracy=[0, 1],
        truncated=[False, False],
        max_tokens=4,
    )
    assert batch.lengths.tolist() == [0, 1]
    assert batch.by_rollout(torch.ones(1)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (Scope.rollout, [0, 0, 0, 1, 2, 2]),
        (Scope.group, [0, 0, 0, 0, 1, 1]),
        (Scope.micro, [2, 2, 2, 0, 1, 1]),
        (Scope.mini, [1, 1, 1, 0, 0, 0]),
        (Scope.batch, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_segments_follow_the_scope(scope: Scope, expected: list[int]) -> None:
    batch = replace(packed(), minibatch_of=torch.tensor([1, 0, 0]), microbatch_of=torch.tensor([2, 0, 1]))
    assert batch.segments(scope).tolist() == expected


def test_columns_are_appended_and_the_old_batch_stays() -> None:
    batch = packed()
    more = batch.with_columns(uniform=torch.rand(6, generator=torch.Generator().manual_seed(0)))
    assert set(more.columns) == {"uniform"}
    assert set(batch.columns) == set()


def test_a_missing_column_is_named_with_what_would_fill_it() -> None:
    with pytest.raises(ValueError, match=r"column 'old_entropy' must exist, got \[\]: the trainer's pass"):
        _ = packed().columns["old_entropy"]
    with pytest.raises(ValueError, match="a scorer fills it, if a component names it in its needs"):
        _ = packed().columns["belief"]


def test_a_column_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"uniform must have one value per trained token, 6, got shape \[5\]"
    ):
        packed().with_columns(uniform=torch.zeros(5))


def test_a_rollout_table_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rewards must have one value per rollout, 3, got shape \[2\]"):
        replace(packed(), rewards=torch.zeros(2))


def test_lengths_that_do_not_count_the_trained_tokens_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"lengths must count the trained tokens \[3, 1, 2\], got \[3, 1, 3\]"
    ):
        replace(packed(), lengths=torch.tensor([3, 1, 3]))


def test_packing_needs_every_part_of_every_rollout() -> None:
    with pytest.raises(ValueError, match="got 1, 2, 1, 1 and 1"):
        pack([[1]], completions=[[2], [3]], prompt_of=[0], accuracy=[1], truncated=[False], max_tokens=2)


def test_a_batch_moves_with_all_its_tensors() -> None:
    batch = example_batch()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    moved = batch.to(device)
    assert {moved.token_ids.device.type, moved.rollout_of.device.type} == {device}
    assert {column.device.type for column in moved.columns.values()} == {device}
    assert torch.equal(moved.rewards.cpu(), batch.rewards)


def test_a_micro_batch_has_no_wider_segments(grpo: Method) -> None:
    prepared = prepare(grpo, example_batch())
    micro = prepared.micro(torch.tensor([0, 4]))
    view = micro.table.view(logprobs=micro.table.advantages, entropy=micro.table.advantages)
    assert view.segments(Scope.micro).unique().tolist() == [0]  # type: ignore[no-untyped-call]  # untyped in torch
    assert torch.equal(view.segments(Scope.rollout), view.rollout_of)
    with pytest.raises(ValueError, match="known for one micro-batch only, got scope batch: use micro"):
        view.segments(Scope.batch)


def test_sum_by_leaves_empty_segments_at_zero() -> None:
    assert sum_by(torch.tensor([1.0, 2.0]), torch.tensor([2, 2]), size=4).tolist() == [0, 0, 3, 0]
