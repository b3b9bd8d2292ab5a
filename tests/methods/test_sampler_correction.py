"""TIS, MIS, IcePop and the geometric mask: weights by hand, and nothing at all without a mismatch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch
from tokensweep.methods.sampler_correction import GeometricMask, IcePop, MaskedImportance, TruncatedImportance

MethodOf = Callable[..., Method]

# Two rollouts of three and two tokens; products 0.5 * 4 * 2 = 4 and 0.5 * 0.5 = 0.25, means 4^(1/3) and 0.5
RATIOS = (0.5, 4.0, 2.0, 0.5, 0.5)

CORRECTIONS = (
    "method=tis",
    "method=tis method.token_weights.tis.level=sequence",
    "method=mis",
    "method=mis method.token_weights.mis.level=token",
    "method=icepop",
    "method=geo_mask",
    "method=[tis,geo_mask]",
)


@pytest.fixture
def weights_of(method_of: MethodOf, batch_of: Callable[..., Batch]) -> Callable[..., list[float]]:
    """Weights of tokens whose old probability is so many times the sampler's."""

    def weights(overrides: str, ratios: Sequence[float] = RATIOS) -> list[float]:
        sampler = [-math.log(ratio) for ratio in ratios]  # the old policy's are 0
        batch = batch_of([1.0, 0.0], lengths=[3, 2], sampler_logprobs=sampler)
        found: list[float] = prepare(method_of(*overrides.split()), batch).weights.tolist()
        return found

    return weights


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("method=tis", [0.5, 2.0, 2.0, 0.5, 0.5]),
        ("method=tis method.token_weights.tis.cap=3", [0.5, 3.0, 2.0, 0.5, 0.5]),
        ("method=tis method.token_weights.tis.level=sequence", [2.0, 2.0, 2.0, 0.25, 0.25]),
        ("method=mis", [0.0, 0.0, 0.0, 0.25, 0.25]),
        ("method=mis method.token_weights.mis.cap=5", [4.0, 4.0, 4.0, 0.25, 0.25]),
        ("method=mis method.token_weights.mis.level=token", [0.5, 0.0, 2.0, 0.5, 0.5]),
        ("method=icepop", [0.5, 4.0, 2.0, 0.5, 0.5]),
        ("method=icepop method.token_weights.icepop.low=0.6", [0.0, 4.0, 2.0, 0.0, 0.0]),
        ("method=icepop method.token_weights.icepop.high=3", [0.5, 0.0, 2.0, 0.5, 0.5]),
        ("method=geo_mask", [0.0, 0.0, 0.0, 0.0, 0.0]),
        ("method=geo_mask method.token_weights.geo_mask.high=1.6", [1.0, 1.0, 1.0, 0.0, 0.0]),
        ("method=geo_mask method.token_weights.geo_mask.high=1.5", [0.0, 0.0, 0.0, 0.0, 0.0]),
        ("method=geo_mask method.token_weights.geo_mask.low=0.49", [0.0, 0.0, 0.0, 1.0, 1.0]),
        ("method=[tis,geo_mask] method.token_weights.geo_mask.low=0.49", [0.0, 0.0, 0.0, 0.5, 0.5]),
    ],
)
def test_the_weights_are_those_worked_out_by_hand(
    weights_of: Callable[..., list[float]], overrides: str, expected: list[float]
) -> None:
    assert weights_of(overrides) == pytest.approx(expected)


def test_a_ratio_on_the_bound_stays(weights_of: Callable[..., list[float]]) -> None:
    ratios = [1.0, 1.0, 1.0, math.exp(0.25), 1.0]
    bound = math.exp(0.25)
    assert weights_of(f"method=mis method.token_weights.mis.cap={bound!r}", ratios)[3] == pytest.approx(bound)
    assert weights_of(f"method=icepop method.token_weights.icepop.high={bound!r}", ratios)[3] != 0


def matched(batch: Batch) -> Batch:
    """The batch as an engine gives it that agrees with the trainer to the bit."""
    return batch.with_columns(sampler_logprobs=batch.columns["old_logprobs"])


@pytest.mark.parametrize("overrides", CORRECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_mismatch_weights_loss_and_gradient_are_exactly_the_uncorrected(
    method_of: MethodOf, overrides: str, dtype: torch.dtype
) -> None:
    corrected, plain = method_of(*overrides.split()), method_of("method=grpo")
    batch = matched(example_batch())
    narrow = {name: column.to(dtype) for name, column in batch.columns.items()}
    batch = replace(batch, rewards=batch.rewards.to(dtype), columns=narrow)
    now = near_old(batch)
    ours, theirs = prepare(corrected, batch), prepare(plain, batch)
    assert (ours.weights == 1).all()
    assert torch.equal(ours.weights, theirs.weights)
    for a, b in zip(
        loss_and_gradient(corrected, ours, now), loss_and_gradient(plain, theirs, now), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("overrides", CORRECTIONS)
@pytest.mark.parametrize("reach", [1.0, 30.0, 5000.0])
def test_weights_stay_within_their_bounds_whatever_the_mismatch(
    method_of: MethodOf, overrides: str, reach: float
) -> None:
    method = method_of(*overrides.split())
    batch = example_batch()
    noise = torch.randn(batch.num_tokens, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    batch = batch.with_columns(sampler_logprobs=batch.columns["old_logprobs"] + reach * noise)
    weights = prepare(method, batch).weights
    highest = {"tis": 2.0, "mis": 3.0, "icepop": 5.0, "geo_mask": 1.0}
    caps = [highest[name] for name in method.token_weights]
    assert weights.isfinite().all()
    assert weights.min() >= 0
    assert weights.max() <= math.prod(caps)


def test_the_denominator_counts_tokens_of_weight_zero(
    method_of: MethodOf, batch_of: Callable[..., Batch]
) -> None:
    # Two rollouts of one token; rewards 1 and 0 have mean and population std 1/2, so advantages 1 and -1. The
    # first token is masked: the gradient of the other is +1 / 2 tokens, not 1 / 1.
    batch = batch_of([1.0, 0.0], lengths=[1, 1], sampler_logprobs=[-math.log(9), 0.0])
    method = method_of("method=icepop", "method/aggregate=token_mean", "method.advantage.eps=0")
    now = near_old(batch, spread=0)
    gradient = loss_and_gradient(method, prepare(method, batch), now)[1]
    assert gradient.tolist() == [0.0, 0.5]


def test_a_mean_over_selected_tokens_divides_by_the_sum_of_the_weights(
    method_of: MethodOf, batch_of: Callable[..., Batch]
) -> None:
    # Weights 2 and 1: the advantages 1 and -1 pull with 2/3 and 1/3.
    batch = batch_of([1.0, 0.0], lengths=[1, 1], sampler_logprobs=[-math.log(2), 0.0])
    method = method_of("method=tis", "method/aggregate=selected_mean", "method.advantage.eps=0")
    gradient = loss_and_gradient(method, prepare(method, batch), near_old(batch, spread=0))[1]
    assert gradient.tolist() == pytest.approx([-2 / 3, 1 / 3])


def test_a_ratio_is_corrected_once(method_of: MethodOf) -> None:
    with pytest.raises(ValueError, match="must be a weight once, got tis and icepop: drop one of them"):
        method_of("method=[dapo,tis,icepop]")


@pytest.mark.parametrize(
    ("stack", "said"),
    [
        ("gspo", "SequenceRatio"),
        ("gmpo", "HolderTokenMean"),
        ("holderpo", "HolderRatio"),
    ],
)
@pytest.mark.parametrize("correction", ["tis", "icepop"])
def test_a_correction_per_token_is_refused_where_it_would_reach_other_tokens(
    method_of: MethodOf, stack: str, said: str, correction: str
) -> None:
    with pytest.raises(ValueError, match=f"must stay with its token, but .*{said} would weigh"):
        method_of(f"method=[{stack},{correction}]")


def test_a_correction_per_rollout_leaves_the_ratio_of_the_rollout_alone(method_of: MethodOf) -> None:
    # Weighing whole rollouts must scale GSPO's gradient rollout by rollout and do nothing else.
    corrected = method_of("method=[gspo,tis]", "method.token_weights.tis.level=sequence")
    plain = method_of("method=gspo")
    batch = example_batch()
    now = near_old(batch, spread=0.01)
    ours, theirs = prepare(corrected, batch), prepare(plain, batch)
    got, expected = (
        loss_and_gradient(method, prepared, now)[1]
        for method, prepared in ((corrected, ours), (plain, theirs))
    )
    torch.testing.assert_close(got, ours.weights * expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TruncatedImportance(cap=0.9),
        lambda: MaskedImportance(cap=0.0),
        lambda: IcePop(low=1.1),
        lambda: IcePop(high=0.9),
        lambda: GeometricMask(low=-0.1),
    ],
)
def test_bounds_that_would_change_a_token_without_mismatch_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"the ratio .*without mismatch, got"):
        make()
