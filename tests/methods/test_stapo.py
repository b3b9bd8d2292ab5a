"""STAPO, arXiv:2602.15620: which tokens are silenced and what the others divide by; numbers by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method, inert_keys
from tokensweep.loss.objective import prepare
from tokensweep.loss.slots import Policy
from tokensweep.loss.tables import Batch, Scope
from tokensweep.methods.forking_tokens import SelectedMean, SelectedMeanMicro
from tokensweep.methods.grpo import PPOClip, TokenMean
from tokensweep.methods.stapo import Pool, Silenced, SpuriousWeight, quantile_of_segments

# A good rollout of seven tokens, five of them rare, and a bad one of two rare tokens.
PROBABILITIES = (0.001, 0.0015, 0.5, 0.001, 0.0019, 0.0021, 0.0001, 0.001, 0.001)
ENTROPIES = (0.4, 0.1, 0.05, 0.3, 0.2, 0.0, 0.5, 0.0, 0.0)
UNIFORM = (0.9, 0.8, 0.1, 0.2, 0.7, 0.0, 0.3, 0.0, 0.0)


@pytest.fixture
def hand(batch_of: Callable[..., Batch]) -> Batch:
    batch = batch_of([1, 0], lengths=[7, 2], old_entropy=ENTROPIES, uniform=UNIFORM)
    return batch.with_columns(old_logprobs=torch.tensor(PROBABILITIES, dtype=torch.float64).log())


@pytest.fixture
def stapo(method_of: Callable[..., Method]) -> Callable[..., Method]:
    base = method_of("method=stapo", "method.advantage.eps=0")

    def make(**fields: object) -> Method:
        part = SpuriousWeight(**fields)  # type: ignore[arg-type]  # mixed types
        aggregate = SelectedMeanMicro() if part.policy is Policy.current else SelectedMean()
        return replace(base, token_weights={"spurious": part}, aggregate=aggregate)

    return make


def silenced(method: Method, batch: Batch) -> list[int]:
    return (prepare(method, batch).weights == 0).nonzero().squeeze(1).tolist()


def test_rare_tokens_of_right_answers_below_the_quantile_are_silenced(
    stapo: Callable[..., Method], hand: Batch
) -> None:
    # rare with A > 0: 0 1 3 4 6 with entropies .4 .1 .3 .2 .5, whose 0.75 quantile is .4: 1 3 4 are below;
    # 5 is not rare, 2 neither, 7 and 8 are of a wrong answer
    assert silenced(stapo(), hand) == [1, 3, 4]
    assert silenced(stapo(quantile=0.5), hand) == [1, 4]  # below .3


def test_the_direction_is_a_choice(stapo: Callable[..., Method], hand: Batch) -> None:
    # the three of highest entropy; and the three of smallest uniform numbers, .2 .3 .7 of .9 .8 .2 .7 .3
    assert silenced(stapo(silence=Silenced.high), hand) == [0, 3, 6]
    assert silenced(stapo(silence=Silenced.random), hand) == [3, 4, 6]


def test_the_quantile_may_be_that_of_all_tokens(stapo: Callable[..., Method], hand: Batch) -> None:
    # all entropies 0 0 0 .05 .1 .2 .3 .4 .5: their 0.75 quantile, at place 6, is .3: of the rare ones 1 and 4
    assert silenced(stapo(pool=Pool.all), hand) == [1, 4]


def test_without_a_quantile_every_rare_token_of_a_right_answer_is(
    stapo: Callable[..., Method], hand: Batch
) -> None:
    method = stapo(quantile=None)
    assert silenced(method, hand) == [0, 1, 3, 4, 6]
    assert set(inert_keys(method)) >= {
        f"token_weights.spurious.{field}" for field in ("silence", "pool", "scope")
    }


def test_a_lone_candidate_stays(stapo: Callable[..., Method], hand: Batch) -> None:
    # probability 2e-4 leaves token 6 only, which is its own quantile
    assert silenced(stapo(probability=2e-4), hand) == []


def test_each_mini_batch_has_a_quantile_of_its_own(stapo: Callable[..., Method]) -> None:
    batch = example_batch()
    method = stapo(probability=0.5)
    prepared = prepare(method, batch)
    rare = (prepared.advantages > 0) & (batch.columns["old_logprobs"].exp() < 0.5)
    for number in (0, 1):
        mine = rare & (batch.minibatch_of[batch.rollout_of] == number)
        entropy = batch.columns["old_entropy"][mine]
        expected = entropy < torch.quantile(entropy, 0.75)
        assert torch.equal(prepared.weights[mine] == 0, expected)
        assert expected.any()
    assert (prepared.weights[~rare] == 1).all()


def test_the_kept_tokens_share_the_loss(
    stapo: Callable[..., Method], hand: Batch, pull: Callable[..., Tensor]
) -> None:
    # 9 tokens, 3 silenced: the others pull with 1 / 6
    expected = [-1 / 6, 0, -1 / 6, 0, 0, -1 / 6, -1 / 6, 1 / 6, 1 / 6]
    assert pull(stapo(), hand, [1.0] * 9).tolist() == pytest.approx(expected)


def test_with_probability_zero_it_is_the_token_mean_bit_by_bit(stapo: Callable[..., Method]) -> None:
    batch = example_batch()
    off = stapo(probability=0.0)
    base = replace(off, token_weights={}, aggregate=TokenMean())
    got, expected = (loss_and_gradient(m, prepare(m, batch), near_old(batch)) for m in (off, base))
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_the_current_policy_may_decide_inside_a_micro_batch(
    stapo: Callable[..., Method], hand: Batch
) -> None:
    current = stapo(policy=Policy.current, scope=Scope.micro)
    prepared = prepare(current, hand)
    assert (prepared.weights == 1).all()
    old = hand.columns["old_logprobs"]
    micro = prepared.micro(torch.arange(2))
    seen = micro.table.view(logprobs=old, entropy=hand.columns["old_entropy"])
    part = current.token_weights["spurious"]
    assert (part(seen) == 0).nonzero().squeeze(1).tolist() == [1, 3, 4]
    # token 0 no longer rare: of .1 .2 .3 .5 the 0.75 quantile is .35
    grown = old.clone()
    grown[0] = -1
    assert (part(replace(seen, logprobs=grown)) == 0).nonzero().squeeze(1).tolist() == [1, 3, 4]
    # token 3 no longer rare: of .1 .2 .4 .5 it is .425
    grown = old.clone()
    grown[3] = -1
    assert (part(replace(seen, logprobs=grown)) == 0).nonzero().squeeze(1).tolist() == [0, 1, 4]


def test_a_token_of_weight_zero_is_no_candidate(stapo: Callable[..., Method], hand: Batch) -> None:
    view = prepare(stapo(probability=0.0), hand).micro(torch.arange(2)).table
    seen = view.view(logprobs=hand.columns["old_logprobs"], entropy=hand.columns["old_entropy"])
    weights = torch.ones(9, dtype=torch.float64)
    weights[6] = 0
    # of .4 .1 .3 .2 the 0.75 quantile is .325
    part = SpuriousWeight(scope=Scope.micro)
    found = part(replace(seen, weights=weights))
    assert (found == 0).nonzero().squeeze(1).tolist() == [1, 3, 4]
    weights[4] = 0
    # of .4 .1 .3 it is .35
    assert (part(replace(seen, weights=weights)) == 0).nonzero().squeeze(1).tolist() == [1, 3]


def test_quantiles_of_segments_are_those_of_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(60, generator=draw, dtype=torch.float64)
    segments = torch.randint(0, 4, (60,), generator=draw)
    among = (torch.rand(60, generator=draw) < 0.6) & (segments != 2)
    for order in (0.0, 0.3, 0.75, 1.0):
        found = quantile_of_segments(x, segments, among=among, order=order)
        for number in (0, 1, 3):
            expected = torch.quantile(x[among & (segments == number)], order)
            torch.testing.assert_close(
                found[segments == number], expected.expand(int((segments == number).sum()))
            )
        assert (found[segments == 2] == -torch.inf).all()


def test_it_tells_how_many_are_rare_and_silenced(stapo: Callable[..., Method], hand: Batch) -> None:
    told = prepare(stapo(), hand).measured
    means = {name.removeprefix("token_weights.spurious/"): value for name, value in told.items()}
    assert means == pytest.approx(
        {"rare": 5 / 9, "silenced": 3 / 9, "silenced_entropy": 0.2, "spared_entropy": 0.45}
    )


def test_the_preset_holds_what_the_table_says(method_of: Callable[..., Method]) -> None:
    method = method_of("method=stapo")
    assert method.token_weights == {"spurious": SpuriousWeight(probability=0.002, quantile=0.75)}
    assert method.surrogate == PPOClip(low=0.2, high=0.28)
    assert method.updates_per_batch == 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"probability": 1.5}, "probability must be in"),
        ({"quantile": -0.1}, "quantile must be in"),
        ({"policy": Policy.current}, "the current policy is known for one micro-batch only"),
    ],
)
def test_a_mask_that_makes_no_sense_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SpuriousWeight(**fields)  # type: ignore[arg-type]  # mixed types
