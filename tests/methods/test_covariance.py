"""Clip-Cov and KL-Cov, arXiv:2505.22617: the properties of their card, with numbers worked out by hand."""

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
from tokensweep.loss.slots import Advantage, Policy, Regularizer, TokenWeight
from tokensweep.loss.tables import Batch, Scope, TokenTable
from tokensweep.methods.covariance import ClipCov, KLCov, Unclipped, covariance
from tokensweep.methods.grpo import PPOClip

MakeBatch = Callable[..., Batch]

# Two rollouts of two tokens, A = 1 1 -1 -1, log-probabilities 0 -1 -2 -3 with mean -1.5:
# covariances 1.5 0.5 0.5 1.5
LOGPROBS = [0.0, -1.0, -2.0, -3.0]
UNIFORM = [0.2, 0.9, 0.8, 0.6]


class PlusMinus(Advantage):
    """1 for right and -1 for wrong rollouts."""

    def __call__(self, batch: Batch) -> Tensor:
        return (2 * batch.rewards - 1)[batch.rollout_of]


@pytest.fixture
def hand(batch_of: MakeBatch) -> Batch:
    batch = batch_of([1, 0], lengths=[2, 2], uniform=UNIFORM)
    return batch.with_columns(old_logprobs=torch.tensor(LOGPROBS, dtype=torch.float64))


@pytest.fixture
def table(hand: Batch, method_of: Callable[..., Method]) -> TokenTable:
    """The tokens of the batch with advantages of ±1."""
    plain = replace(method_of("method=grpo"), advantage=PlusMinus())
    return prepare(plain, hand).micro(torch.arange(2)).table


@pytest.fixture
def method(method_of: Callable[..., Method]) -> Callable[..., Method]:
    """Clip-Cov or KL-Cov with advantages of ±1."""

    def make(preset: str, part: TokenWeight | Regularizer) -> Method:
        base = replace(method_of(f"method={preset}"), advantage=PlusMinus())
        if isinstance(part, ClipCov):
            return replace(base, token_weights={"clip_cov": part})
        assert isinstance(part, KLCov)
        return replace(base, regularizers={"kl_cov": part})

    return make


def weights(method: Method, batch: Batch) -> list[float]:
    return prepare(method, batch).weights.tolist()


def run(method: Method, batch: Batch, log_ratios: list[float]) -> tuple[Tensor, Tensor]:
    now = batch.columns["old_logprobs"] + torch.tensor(log_ratios, dtype=torch.float64)
    return loss_and_gradient(method, prepare(method, batch), Policies(now, torch.zeros_like(now)))


def test_among_the_candidates_the_lots_decide(method: Callable[..., Method], hand: Batch) -> None:
    # above 1 lie the first and the last token; a quarter of 4 tokens is one, and 0.6 is the larger lot
    assert weights(method("clip_cov", ClipCov(share=0.25)), hand) == [1, 1, 1, 0]
    moved = hand.with_columns(uniform=torch.tensor([0.7, 0.9, 0.8, 0.6], dtype=torch.float64))
    assert weights(method("clip_cov", ClipCov(share=0.25)), moved) == [0, 1, 1, 1]


def test_fewer_candidates_than_the_share_are_all_taken(method: Callable[..., Method], hand: Batch) -> None:
    assert weights(method("clip_cov", ClipCov(share=0.75)), hand) == [0, 1, 1, 0]


def test_a_share_of_less_than_one_token_still_takes_one(method: Callable[..., Method], hand: Batch) -> None:
    assert weights(method("clip_cov", ClipCov(share=2e-4)), hand) == [1, 1, 1, 0]


def test_the_bounds_are_open(method: Callable[..., Method], hand: Batch) -> None:
    assert weights(method("clip_cov", ClipCov(share=1, lowest=0.5)), hand) == [0, 1, 1, 0]
    assert weights(method("clip_cov", ClipCov(share=1, lowest=0.4, highest=1.5)), hand) == [1, 0, 0, 1]


def test_without_candidates_it_is_the_clipped_objective(
    method: Callable[..., Method], method_of: Callable[..., Method]
) -> None:
    none = method_of("method=clip_cov", "method.token_weights.clip_cov.lowest=4.9")
    batch, plain = example_batch(), replace(none, token_weights={})
    now = near_old(batch)
    got = loss_and_gradient(none, prepare(none, batch), now)
    for ours, theirs in zip(got, loss_and_gradient(plain, prepare(plain, batch), now), strict=True):
        assert torch.equal(ours, theirs)


def test_what_the_surrogate_clips_already_is_no_candidate(method: Callable[..., Method], hand: Batch) -> None:
    # ratio e^1 > 2 with A = 1 is clipped: of the two tokens with a covariance above 1 only the last is left
    released = ClipCov(share=1, scope=Scope.micro, policy=Policy.current)
    prepared = prepare(method("clip_cov", released), hand)
    micro = prepared.micro(torch.arange(2))
    now = hand.columns["old_logprobs"] + torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    seen = micro.table.view(logprobs=now, entropy=torch.zeros_like(now))
    assert released(seen).tolist() == [1, 1, 1, 0]


def test_a_constant_advantage_has_no_covariance(method: Callable[..., Method], batch_of: MakeBatch) -> None:
    batch = batch_of([1, 1], lengths=[2, 2], uniform=UNIFORM)
    batch = batch.with_columns(old_logprobs=torch.tensor(LOGPROBS, dtype=torch.float64))
    assert weights(method("clip_cov", ClipCov(share=1, lowest=1e-9)), batch) == [1, 1, 1, 1]


def test_covariances_sum_to_the_population_covariance_and_ignore_constants(table: TokenTable) -> None:
    # (1.5 + 0.5 + 0.5 + 1.5) / 4 = 1, the covariance of A and the log-probabilities
    logprobs, one = table.columns["old_logprobs"], torch.zeros(4, dtype=torch.int64)
    shifted = replace(table, advantages=table.advantages + 3)
    assert covariance(table.view(logprobs=logprobs, entropy=logprobs), one).tolist() == [1.5, 0.5, 0.5, 1.5]
    moved = covariance(shifted.view(logprobs=logprobs - 7, entropy=logprobs), one)
    assert moved.tolist() == pytest.approx([1.5, 0.5, 0.5, 1.5])


def test_a_token_of_weight_zero_is_in_no_mean(table: TokenTable) -> None:
    # without the last: A 1 1 -1 with mean 1/3, log-probabilities 0 -1 -2 with mean -1
    three = replace(table, weights=torch.tensor([1.0, 1, 1, 0], dtype=torch.float64))
    logprobs = table.columns["old_logprobs"].clone()
    logprobs[3] = torch.nan
    got = covariance(three.view(logprobs=logprobs, entropy=logprobs), torch.zeros(4, dtype=torch.int64))
    assert got.tolist() == pytest.approx([2 / 3, 0, 4 / 3, -math.inf])


def test_the_tokens_of_highest_covariance_pay_their_distance(
    method: Callable[..., Method], hand: Batch
) -> None:
    # half of the tokens pay: the first and the last, (|0.1| + |-0.2|) / 4 tokens
    part = KLCov(share=0.5, coef=2)
    prepared = prepare(method("kl_cov", part), hand)
    assert prepared.batch.columns["kl_cov"].tolist() == [True, False, False, True]
    now = (hand.columns["old_logprobs"] + torch.tensor([0.1, 9, 9, -0.2])).requires_grad_()
    micro = prepared.micro(torch.arange(2))
    output = micro_loss(method("kl_cov", part), micro, now, torch.zeros_like(now))
    assert output.metrics["regularizer/kl_cov"][0].item() == pytest.approx(2 * 0.3 / 4)


def test_its_gradient_pushes_back_with_the_sign_of_the_move(
    method: Callable[..., Method], hand: Batch
) -> None:
    # -A r / 4 tokens, and ± coef / 4 on the tokens that pay
    _, got = run(method("kl_cov", KLCov(share=0.5)), hand, [0.1, 0.1, 0, -0.2])
    pulls = [-math.exp(0.1), -math.exp(0.1), 1, math.exp(-0.2)]
    expected = [pulls[0] + 1, pulls[1], pulls[2], pulls[3] - 1]
    assert got.tolist() == pytest.approx([each / 4 for each in expected])


def test_without_strength_it_is_plain_importance_weighting(
    method: Callable[..., Method], hand: Batch
) -> None:
    free = method("kl_cov", KLCov(coef=0))
    _, got = run(free, hand, [2.0, 0.5, 0, -3.0])  # no ratio is clipped
    pulls = [-math.exp(2), -math.exp(0.5), 1, math.exp(-3)]
    assert got.tolist() == pytest.approx([each / 4 for each in pulls])


def test_at_ratio_one_nobody_pays_and_nothing_pulls(method: Callable[..., Method], hand: Batch) -> None:
    on, off = method("kl_cov", KLCov(share=1)), method("kl_cov", KLCov(coef=0))
    for ours, theirs in zip(run(on, hand, [0.0] * 4), run(off, hand, [0.0] * 4), strict=True):
        assert torch.equal(ours, theirs)
    assert set(inert_keys(replace(on, updates_per_batch=1))) >= {"regularizers.kl_cov.coef"}


def test_as_released_each_micro_batch_chooses_for_itself(method_of: Callable[..., Method]) -> None:
    released = method_of("method=kl_cov_as_released", "method.regularizers.kl_cov.share=0.1")
    prepared = prepare(released, example_batch())
    assert "kl_cov" not in prepared.batch.columns
    assert prepared.active.all()  # the means are over all tokens of the micro-batch


def test_two_of_them_are_refused(hand: Batch, method: Callable[..., Method]) -> None:
    twice = replace(method("kl_cov", KLCov()), regularizers={"a": KLCov(), "b": KLCov(share=0.5)})
    with pytest.raises(ValueError, match=r"the column 'kl_cov' of regularizers\.b is there already"):
        prepare(twice, hand)


def test_the_presets_hold_what_the_code_says(method_of: Callable[..., Method]) -> None:
    clip, kl = method_of("method=clip_cov"), method_of("method=kl_cov")
    assert clip.token_weights == {"clip_cov": ClipCov(share=2e-4, lowest=1, highest=5)}
    assert clip.surrogate == PPOClip(low=1, high=1)  # the code's loss has no dual clip
    assert kl.regularizers == {"kl_cov": KLCov(share=2e-3, coef=1)}
    assert kl.surrogate == Unclipped()
    micro = {"scope": Scope.micro, "policy": Policy.current}
    assert method_of("method=clip_cov_as_released").token_weights == {"clip_cov": ClipCov(**micro)}  # type: ignore[arg-type]  # mixed types
    assert method_of("method=kl_cov_as_released").regularizers == {"kl_cov": KLCov(**micro)}  # type: ignore[arg-type]  # mixed types


def test_clip_cov_must_know_the_clip(method: Callable[..., Method]) -> None:
    base = method("clip_cov", ClipCov())
    with pytest.raises(ValueError, match="clip_cov must know the clip of the surrogate, low 1 and high 1"):
        replace(base, surrogate=PPOClip(low=0.2, high=0.2))


@pytest.mark.parametrize("part", [ClipCov, KLCov])
def test_a_selection_that_makes_no_sense_is_refused(part: type[ClipCov] | type[KLCov]) -> None:
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\], got 0"):
        part(share=0)
    with pytest.raises(ValueError, match="the current policy is known for one micro-batch only"):
        part(policy=Policy.current)
