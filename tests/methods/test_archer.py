"""Archer, arXiv:2507.15778: two clips and a penalty on certain tokens, with numbers worked out by hand."""

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
from tokensweep.methods.archer import TwoClips
from tokensweep.methods.dual_clip import DualClip
from tokensweep.methods.forking_tokens import RankBy, above_quantile
from tokensweep.methods.grpo import PPOClip
from tokensweep.methods.kl import KLPenalty, Where

MakeBatch = Callable[..., Batch]
Pull = Callable[..., Tensor]


@pytest.fixture
def archer(method_of: Callable[..., Method]) -> Method:
    return method_of("method=archer", "method.advantage.eps=0")


@pytest.fixture
def clips(archer: Method) -> Method:
    """Without the penalty."""
    return replace(archer, regularizers={})


@pytest.fixture
def five(batch_of: MakeBatch) -> Batch:
    """A = 1 and -1 on five tokens each, the last of which is uncertain; far from the reference."""
    entropy = [1, 2, 3, 4, 5, 10, 20, 30, 40, 50]
    return batch_of([1, 0], lengths=[5, 5], old_entropy=entropy, ref_logprobs=[-1] * 10)


def seen(method: Method, batch: Batch) -> View:
    table = prepare(method, batch).micro(torch.arange(batch.num_rollouts)).table
    old = table.columns["old_logprobs"]
    return table.view(logprobs=old, entropy=old)


def uncertain(method: Method, batch: Batch) -> list[bool]:
    assert isinstance(method.surrogate, TwoClips)
    return method.surrogate.uncertain(seen(method, batch)).tolist()


def test_a_quantile_lies_between_two_tokens_or_on_one() -> None:
    # 5 tokens: place 0.8 * 4 = 3.2, between 4 and 5; 6 tokens: place 4, the fifth, which is not above itself
    x = torch.tensor([5.0, 1, 4, 2, 3, 1.0, 2, 3, 4, 5, 6])
    segments = torch.tensor([0] * 5 + [2] * 6)
    above = above_quantile(x, segments, quantile=0.8).tolist()
    assert above == [True, False, False, False, False] + [False] * 5 + [True]


def test_tokens_at_the_quantile_and_those_that_do_not_exist_are_not_above() -> None:
    # of -inf 1 2 2 2 three and more lie at the quantile; a lone token, and a segment without any
    x = torch.tensor([-torch.inf, 2, 1, 2, 2, 7, -torch.inf])
    segments = torch.tensor([0, 0, 0, 0, 0, 1, 2])
    assert above_quantile(x, segments, quantile=0.8).tolist() == [False] * 7
    # of 1 2 2 2 the place is 0.3 * 3 = 0.9, below 2
    assert above_quantile(x, segments, quantile=0.3).tolist() == [
        False,
        True,
        False,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.35, 0.5, 0.8, 0.9, 1.0])
def test_it_is_the_quantile_of_torch(quantile: float) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(600, generator=draw, dtype=torch.float64)
    segments = torch.randint(7, (600,), generator=draw)
    got = above_quantile(x, segments, quantile=quantile)
    for number in range(7):
        own = x[segments == number]
        assert torch.equal(got[segments == number], own > own.quantile(quantile))


def test_each_rollout_has_a_quantile_of_its_own(archer: Method, five: Batch) -> None:
    assert uncertain(archer, five) == [False, False, False, False, True] * 2


def test_uncertain_tokens_may_move_further(clips: Method, five: Batch, pull: Pull) -> None:
    # over 10 tokens: ratio 1.4 pulls where the clip is 1.5 and not where it is 1.2; so does 0.6
    got = pull(clips, five, [1.4, 1, 1, 1, 1.4, 0.6, 1, 1, 1, 0.6])
    assert got.tolist() == pytest.approx([0] + [-0.1] * 3 + [-0.14] + [0] + [0.1] * 3 + [0.06])
    beyond = pull(clips, five, [1, 1, 1, 1, 1.6, 1, 1, 1, 1, 0.4])
    assert beyond[[4, 9]].tolist() == [0, 0]


def test_equal_clips_are_plain_ppo_bit_by_bit(clips: Method) -> None:
    batch = example_batch()
    now = near_old(batch, spread=0.8)
    for policy in Policy:
        same = TwoClips(uncertain_low=0.2, uncertain_high=0.2, policy=policy)
        for surrogate, base in ((same, PPOClip()), (replace(same, cap=1.5), DualClip(cap=1.5))):
            pair = [replace(clips, surrogate=each) for each in (surrogate, base)]
            got, expected = (loss_and_gradient(method, prepare(method, batch), now) for method in pair)
            assert torch.equal(got[0], expected[0])
            assert torch.equal(got[1], expected[1])


def test_the_current_policy_may_tell_the_tokens_apart(clips: Method, five: Batch) -> None:
    # its entropies fall where the old ones rise: the first token is uncertain
    current = replace(clips, surrogate=TwoClips(policy=Policy.current))
    logprobs = torch.tensor([1.4, 1, 1, 1, 1.4] + [1.0] * 5, dtype=torch.float64).log()
    now = Policies(logprobs, -five.columns["old_entropy"])
    _, gradient = loss_and_gradient(current, prepare(current, five), now)
    assert gradient[[0, 4]].tolist() == pytest.approx([-0.14, 0])
    assert current.surrogate.needs == {"entropy"}


def test_random_ranks_and_random_payers_choose_the_same_sets(archer: Method, five: Batch) -> None:
    batch = five.with_columns(uniform=torch.tensor([0.9, 0.1, 0.2, 0.3, 0.4] * 2, dtype=torch.float64))
    random = replace(archer, surrogate=TwoClips(rank_by=RankBy.random))
    assert uncertain(random, batch) == [True, False, False, False, False] * 2
    assert paying(random, KLPenalty(coef=1, where=Where.random), batch) == [False, True, True, True, True] * 2


def test_a_token_of_weight_zero_has_no_rank(clips: Method, five: Batch) -> None:
    # of the entropies 1 2 3 4 the place is 2.4: the fourth is above it
    view = replace(seen(clips, five), weights=torch.tensor([1.0, 1, 1, 1, 0] * 2, dtype=torch.float64))
    assert isinstance(clips.surrogate, TwoClips)
    assert clips.surrogate.uncertain(view).tolist() == [False, False, False, True, False] * 2


def paying(method: Method, part: KLPenalty, batch: Batch) -> list[bool]:
    """Tokens with a gradient where nothing but the penalty pulls."""
    flat = replace(batch, rewards=torch.ones_like(batch.rewards))
    alone = replace(method, regularizers={"kl": part})
    now = Policies(torch.zeros(10).double(), batch.columns["old_entropy"])
    _, gradient = loss_and_gradient(alone, prepare(alone, flat), now)
    return (gradient != 0).tolist()


def test_certain_tokens_pay_and_the_others_do_not(archer: Method, five: Batch) -> None:
    certain = [True, True, True, True, False] * 2
    for policy in Policy:
        part = KLPenalty(coef=1, where=Where.certain, policy=policy)
        assert paying(archer, part, five) == certain
        assert paying(archer, replace(part, where=Where.uncertain), five) == [not each for each in certain]
    assert paying(archer, KLPenalty(coef=1), five) == [True] * 10


def test_who_does_not_pay_stays_in_the_denominator(archer: Method, five: Batch) -> None:
    # d = 1: k3 = exp(-1) - 1 + 1 = 1 / e on 8 of 10 tokens, coefficient 0.001
    prepared = prepare(archer, five)
    micro = prepared.micro(torch.arange(2))
    zeros = torch.zeros(10).double()
    output = micro_loss(archer, micro, zeros, zeros)
    share, count = output.metrics["regularizer/kl"]
    assert float(share / count) == pytest.approx(0.001 * 8 / 10 / math.e)


def test_the_penalties_of_both_sides_add_up_to_that_of_all(archer: Method) -> None:
    batch = example_batch()
    now = near_old(batch)
    flat = replace(batch, rewards=torch.ones_like(batch.rewards))
    got = {}
    for where in Where:
        alone = replace(archer, regularizers={"kl": KLPenalty(coef=1, where=where)})
        got[where] = loss_and_gradient(alone, prepare(alone, flat), now)
    for index in (0, 1):
        torch.testing.assert_close(
            got[Where.certain][index] + got[Where.uncertain][index], got[Where.all][index]
        )


def test_its_numbers_tell_the_two_kinds_apart(archer: Method, five: Batch) -> None:
    logprobs = torch.tensor([1.4, 1, 1, 1, 1.6, 0.6, 1, 1, 1, 0.6], dtype=torch.float64).log()
    got = micro_loss(archer, prepare(archer, five).micro(torch.arange(2)), logprobs, logprobs).measured
    fractions = {name: (int(a), int(b)) for name, (a, b) in got.items() if name.endswith("fraction")}
    assert fractions == {
        "surrogate/uncertain_fraction": (2, 10),
        "surrogate/uncertain_clip_fraction": (1, 2),
        "surrogate/certain_clip_fraction": (2, 8),
        "regularizers.kl/paying_fraction": (8, 10),
    }
    # d = log(ratio) + 1; k3 = exp(-d) - 1 + d, with exp(-d) = 1 / (e ratio)
    free = sum(1 / (math.e * ratio) + math.log(ratio) for ratio in (1.6, 0.6))
    total, count = got["regularizers.kl/free_divergence"]
    assert float(total) == pytest.approx(free)
    assert int(count) == 2


def test_bounds_have_no_effect_with_one_update_and_a_quantile_none_where_all_pay(
    archer: Method, method_of: Callable[..., Method]
) -> None:
    assert inert_keys(archer) == {}
    once = set(inert_keys(replace(archer, updates_per_batch=1)))
    assert once >= {"surrogate.low", "surrogate.uncertain_high", "surrogate.quantile"}
    assert set(inert_keys(method_of("method=grpo_kl"))) >= {
        "regularizers.kl.quantile",
        "regularizers.kl.policy",
    }


def test_the_presets_hold_what_the_code_says(method_of: Callable[..., Method]) -> None:
    ours, released = method_of("method=archer"), method_of("method=archer_as_released")
    assert ours.surrogate == TwoClips(low=0.2, high=0.2, uncertain_low=0.5, uncertain_high=0.5)
    penalty = ours.regularizers["kl"]
    assert isinstance(penalty, KLPenalty)
    assert (penalty.coef, penalty.where, penalty.quantile) == (0.001, Where.certain, 0.8)
    assert released.surrogate == TwoClips(policy=Policy.current, cap=10)
    assert released.regularizers["kl"] == replace(penalty, coef=0.00125, policy=Policy.current)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantile": 1.5}, r"quantile must be in \[0, 1\], got 1.5"),
        ({"uncertain_low": 1.5}, r"low must be in \[0, 1\] and high at least 0, got 1.5"),
        ({"cap": 1.0}, "cap must be above 1"),
    ],
)
def test_clips_that_make_no_sense_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwoClips(**fields)  # type: ignore[arg-type]  # mixed types
