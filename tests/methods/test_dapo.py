"""DAPO, arXiv:2503.14476: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare, score
from tokensweep.loss.outcomes import Outcomes
from tokensweep.loss.tables import Batch, pack
from tokensweep.methods.dapo import DynamicSampling, NotTruncated, SoftOverlongPenalty
from tokensweep.methods.grpo import GroupNormalisedAdvantage, VerifierReward


def batch_of_lengths(*lengths: int, max_tokens: int) -> Batch:
    return pack(
        [[1]] * len(lengths),
        completions=[[2] * length for length in lengths],
        prompt_of=[0] * len(lengths),
        accuracy=[float(i % 2) for i in range(len(lengths))],
        truncated=[False] * len(lengths),
        max_tokens=max_tokens,
    )


def test_the_preset_holds_what_the_paper_says(method_of: Callable[..., Method]) -> None:
    dapo = method_of("method=dapo")
    assert dapo.updates_per_batch == 16
    assert (dapo.surrogate.low, dapo.surrogate.high) == (0.2, 0.28)  # type: ignore[attr-defined]  # PPOClip
    assert dapo.allocation == DynamicSampling(max_rounds=10, oversample=1.0)
    assert dapo.reward_terms == {"verifier": VerifierReward(), "overlong": SoftOverlongPenalty()}


def test_without_its_additions_dapo_is_grpo(method_of: Callable[..., Method]) -> None:
    stripped = method_of(
        "method=dapo",
        "method/allocation=uniform",
        "method/aggregate=rollout_mean",
        "method/surrogate=ppo_clip",
        "~method.reward_terms.overlong",
        "method.updates_per_batch=1",
    )
    grpo = method_of("method=grpo")
    assert replace(stripped, name="grpo") == grpo


def test_clip_higher_lets_a_good_token_grow_further(method_of: Callable[..., Method]) -> None:
    batch = replace(
        example_batch(), microbatch_of=torch.zeros(12).long(), minibatch_of=torch.zeros(12).long()
    )
    dapo = method_of("method=dapo")
    prepared = prepare(dapo, batch)
    now = near_old(batch, spread=0)
    bent = replace(now, logprobs=now.logprobs + torch.tensor(1.25).log())  # every ratio 1.25, below 1.28
    good = prepared.advantages > 0
    assert (loss_and_gradient(dapo, prepared, bent)[1][good] != 0).all()
    symmetric = replace(dapo, surrogate=replace(dapo.surrogate, high=0.2))  # type: ignore[type-var]  # a dataclass
    assert (loss_and_gradient(symmetric, prepared, bent)[1][good] == 0).all()


def test_every_token_weighs_the_same_whatever_the_length_of_its_rollout(
    method_of: Callable[..., Method],
) -> None:
    batch = replace(
        example_batch(), microbatch_of=torch.zeros(12).long(), minibatch_of=torch.zeros(12).long()
    )
    dapo = method_of("method=dapo")
    prepared = prepare(dapo, batch)
    _, gradient = loss_and_gradient(dapo, prepared, near_old(batch, spread=0))
    torch.testing.assert_close(gradient, -prepared.advantages / 71)  # 5+9+3+7+4+8+6+3+10+5+7+4 tokens


def test_the_overlong_penalty_falls_in_a_line_from_four_fifths_to_the_limit() -> None:
    # limit 10, cache 2: nothing up to 8, then half a point per token
    batch = batch_of_lengths(1, 8, 9, 10, max_tokens=10)
    assert SoftOverlongPenalty()(batch).tolist() == [0, 0, -0.5, -1]


def test_the_overlong_penalty_has_the_papers_numbers() -> None:
    # 20480 tokens at most, of them 4096 cache: half the penalty at 16384 + 2048
    batch = batch_of_lengths(16384, 18432, 20480, max_tokens=20480)
    assert SoftOverlongPenalty()(batch).tolist() == [0, -0.5, -1]


def test_half_the_penalty_next_to_zero_and_one_equals_all_of_it_next_to_minus_and_plus_one() -> None:
    batch = batch_of_lengths(3, 8, 9, 10, max_tokens=10)
    ours = replace(batch, rewards=batch.accuracy + 0.5 * SoftOverlongPenalty()(batch))
    papers = replace(batch, rewards=2 * batch.accuracy - 1 + SoftOverlongPenalty()(batch))
    advantage = GroupNormalisedAdvantage(eps=0)
    torch.testing.assert_close(advantage(ours), advantage(papers))


def test_the_score_adds_the_terms_with_their_weights(method_of: Callable[..., Method]) -> None:
    # grades 0 1 0 1; penalties 0 0 -1/2 -1, halved
    batch = batch_of_lengths(3, 8, 9, 10, max_tokens=10)
    assert score(method_of("method=dapo"), batch).tolist() == [0, 1, -0.25, 0.5]


@pytest.mark.parametrize(
    ("grades", "kept"), [([0, 0, 0], False), ([1, 1, 1], False), ([0, 1, 0], True), ([0.5, 0.5], False)]
)
def test_a_group_is_kept_when_its_grades_differ(grades: list[float], kept: bool) -> None:
    assert DynamicSampling().keep(torch.tensor(grades)) is kept


def test_sampling_goes_on_for_what_is_missing_until_the_rounds_are_used_up() -> None:
    sampling = DynamicSampling(max_rounds=3, oversample=1.5)
    mixed, equal = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])
    start = Outcomes(num_prompts=8, group_size=2)
    assert list(sampling.wanted(start)) == [2] * 12
    second = replace(start, round=1, grades=(mixed,) * 5 + (equal,) * 7)
    assert list(sampling.wanted(second)) == [0] * 12 + [2] * 5  # ceil(1.5 * 3) new prompts
    assert not sampling.wanted(replace(second, round=2, grades=(mixed,) * 8))
    assert not sampling.wanted(replace(second, round=3))


@pytest.mark.parametrize("fields", [{"max_rounds": 0}, {"oversample": 0.5}])
def test_sampling_that_could_not_fill_a_batch_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="max_rounds and oversample must be at least 1"):
        DynamicSampling(**fields)  # type: ignore[arg-type]  # mixed types


def test_a_cache_outside_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cache_fraction must be in \(0, 1\], got 1.5"):
        SoftOverlongPenalty(cache_fraction=1.5)


def test_overlong_filtering_takes_truncated_rollouts_out_of_the_numerator_only(
    batch_of: Callable[..., Batch], pull: Callable[..., Tensor], method_of: Callable[..., Method]
) -> None:
    # A = 1 and -1, 4 tokens in all, the second rollout was cut off: 1/4 for the others, nothing for it
    batch = replace(batch_of([1, 0], lengths=[2, 2]), truncated=torch.tensor([False, True]))
    method = replace(
        method_of("method=dapo"),
        advantage=GroupNormalisedAdvantage(eps=0),
        token_weights={"truncated": NotTruncated()},
    )
    assert pull(method, batch, [1, 1, 1, 1]).tolist() == [-0.25, -0.25, 0, 0]
