"""SHEAR, arXiv:2604.23318: the properties that its card lists, with numbers by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch
from tokensweep.methods.shear import EpsUnit, NormOf, Renorm, SpanDistance, SpanDivergence, spans

Make = Callable[..., Batch]


@pytest.fixture
def weights(method_of: Callable[..., Method]) -> Callable[..., Tensor]:
    """Omega [N] that a shaper gives to a batch, from the advantages with and without it."""
    base = replace(method_of("method=shear"), advantage_shapers={})

    def omega(batch: Batch, **fields: Any) -> Tensor:
        shaper = SpanDivergence(**fields)
        shaped = replace(base, advantage_shapers={"shear": shaper})
        return prepare(shaped, batch).advantages / prepare(base, batch).advantages

    return omega


def states(batch: Batch, rows: Sequence[Sequence[float]]) -> Batch:
    return batch.with_columns(old_hidden=torch.tensor(rows, dtype=torch.float64))


def test_spans_cover_every_token_and_stop_where_one_reaches_the_end() -> None:
    # 7 tokens, window 4, stride 2: 0-3, 2-5, 4-6; 3 tokens: one span; none: no span; 4 tokens: one span
    place = torch.tensor([0] * 7 + [1] * 3 + [3] * 4)
    windows, of = spans(place, num_rollouts=4, window=4, stride=2)
    rows = [row[inside].tolist() for row, inside in zip(windows.rows, windows.inside, strict=True)]
    assert rows == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6], [7, 8, 9], [10, 11, 12, 13]]
    assert of.tolist() == [0, 0, 0, 1, 3]


def test_a_token_s_weight_is_the_largest_distance_of_its_spans_over_the_mean_norm(
    batch_of: Make, weights: Callable[..., Tensor]
) -> None:
    # Single tokens as spans, so every distance is that of two vectors. Right: 3, 4 and 9; wrong: 5 and 7.
    # Nearest: 3 to 5: 2; 4 to 5: 1; 9 to 7: 2; 5 to 4: 1; 7 to 9: 2. Mean norm 28 / 5.
    batch = states(batch_of([1, 0], lengths=[3, 2]), [[3], [4], [9], [5], [7]])
    one = weights(batch, window=1, stride=1)
    torch.testing.assert_close(one, torch.tensor([2.0, 1, 2, 1, 2], dtype=torch.float64) * 5 / 28)
    # Spans of two: {3, 4} and {4, 9} against {5, 7}: (2 + 3) / 2 and (1 + 2) / 2; the middle token takes the
    # larger; {5, 7} is nearest to {4, 9}.
    two = weights(batch, window=2, stride=1, eps=0.001, eps_unit=EpsUnit.one, iterations=500)
    expected = torch.tensor([2.5, 2.5, 1.5, 1.5, 1.5], dtype=torch.float64) * 5 / 28
    torch.testing.assert_close(two, expected, rtol=1e-3, atol=0)


def test_the_norm_can_be_that_of_the_rollout(batch_of: Make, weights: Callable[..., Tensor]) -> None:
    # means of the norms: 16 / 3 and 6
    batch = states(batch_of([1, 0], lengths=[3, 2]), [[3], [4], [9], [5], [7]])
    got = weights(batch, window=1, stride=1, norm_of=NormOf.rollout)
    expected = [2 * 3 / 16, 3 / 16, 2 * 3 / 16, 1 / 6, 2 / 6]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("distance", SpanDistance)
def test_no_weight_is_negative_so_no_sign_changes(
    distance: SpanDistance, method_of: Callable[..., Method]
) -> None:
    batch = example_batch()
    method = method_of("method=shear")
    shaped = replace(
        method, advantage_shapers={"shear": SpanDivergence(window=3, stride=2, distance=distance)}
    )
    before = prepare(replace(method, advantage_shapers={}), batch).advantages
    after = prepare(shaped, batch).advantages
    assert ((after.sign() == before.sign()) | (after == 0)).all()
    assert (after != before).any()


def test_groups_with_one_outcome_are_those_of_grpo_to_the_bit(method_of: Callable[..., Method]) -> None:
    batch = example_batch()
    for grade in (0.0, 1.0):
        # rewards differ all the same, as a length penalty would make them
        same = replace(batch, accuracy=torch.full_like(batch.accuracy, grade))
        shaped, base = method_of("method=shear"), replace(method_of("method=shear"), advantage_shapers={})
        results = [loss_and_gradient(m, prepare(m, same), near_old(same)) for m in (shaped, base)]
        for ours, theirs in zip(*results, strict=True):
            assert torch.equal(ours, theirs)
        assert (results[0][1] != 0).any()


@pytest.mark.parametrize("distance", SpanDistance)
def test_the_scale_of_the_hidden_states_does_not_matter(
    distance: SpanDistance, weights: Callable[..., Tensor]
) -> None:
    batch = example_batch()
    scaled = batch.with_columns(old_hidden=40 * batch.columns["old_hidden"])
    fields = {"window": 4, "stride": 2, "distance": distance}
    one, other = weights(batch, **fields), weights(scaled, **fields)
    torch.testing.assert_close(one, other, equal_nan=True)  # 0 / 0 where a group carries no signal


def test_a_window_as_long_as_a_rollout_gives_all_its_tokens_one_weight(
    weights: Callable[..., Tensor],
) -> None:
    batch = example_batch()
    omega = weights(batch, window=10, stride=5)
    for rollout in range(8):  # the last group has one outcome
        own = omega[batch.rollout_of == rollout]
        assert (own == own[0]).all()
    torch.testing.assert_close(
        weights(batch, window=10, stride=5, renorm=Renorm.rollout_mean)[batch.rollout_of < 8],
        torch.ones(int((batch.rollout_of < 8).sum()), dtype=torch.float64),
    )


def test_a_span_that_a_rollout_with_the_other_outcome_has_too_counts_nothing(
    batch_of: Make, weights: Callable[..., Tensor]
) -> None:
    # Both begin with the states (1, 0), (0, 2), in different order, and then part.
    rows = [[1, 0], [0, 2], [9, 9], [8, 9], [0, 2], [1, 0], [-9, 9], [-9, 8]]
    omega = weights(
        states(batch_of([1, 0], lengths=[4, 4]), rows),
        window=2,
        stride=2,
        eps=0.01,
        eps_unit=EpsUnit.one,
        iterations=200,
    )
    torch.testing.assert_close(omega[[0, 1, 4, 5]], torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-6)
    assert (omega[[2, 3, 6, 7]] > 0.5).all()


def test_another_opposing_rollout_never_makes_a_span_further(
    batch_of: Make, weights: Callable[..., Tensor]
) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(10, 3, generator=draw)
    few = states(batch_of([1, 0], lengths=[5, 5]), rows.tolist())
    like_the_first = 0.9 * rows[2:5]
    many = states(batch_of([1, 0, 0], lengths=[5, 5, 3]), torch.cat([rows, like_the_first]).tolist())
    fields = {"window": 2, "stride": 1, "eps": 0.1, "eps_unit": EpsUnit.one}

    def distance(batch: Batch) -> Tensor:
        mean_norm = float(batch.columns["old_hidden"].norm(dim=1).mean())
        return weights(batch, **fields)[:5] * mean_norm

    assert (distance(many) <= distance(few) + 1e-9).all()
    assert (distance(many) < distance(few) - 1e-3).any()


def test_another_span_over_a_token_never_lowers_its_weight(
    batch_of: Make, weights: Callable[..., Tensor]
) -> None:
    # the wrong rollout is one span whatever the stride; the right one has two spans, or those and three more
    rows = torch.randn(12, 3, generator=torch.Generator().manual_seed(1)).tolist()
    batch = states(batch_of([1, 0], lengths=[8, 4]), rows)
    wide, dense = (weights(batch, window=4, stride=stride)[:8] for stride in (4, 1))
    assert (dense >= wide - 1e-9).all()
    assert (dense > wide + 1e-3).any()


@pytest.mark.parametrize("distance", SpanDistance)
def test_renormalised_weights_have_mean_1(distance: SpanDistance, weights: Callable[..., Tensor]) -> None:
    batch = example_batch()
    fields = {"window": 3, "stride": 2, "distance": distance}
    group = weights(batch, renorm=Renorm.group_mean, **fields)
    for prompt in (0, 1):
        assert float(group[batch.prompt_of[batch.rollout_of] == prompt].mean()) == pytest.approx(1)
    rollout = weights(batch, renorm=Renorm.rollout_mean, **fields)
    for number in range(8):
        assert float(rollout[batch.rollout_of == number].mean()) == pytest.approx(1)
    raw = weights(batch, **fields)
    own = batch.rollout_of == 1
    torch.testing.assert_close(rollout[own], raw[own] / raw[own].mean())


def test_pruning_changes_no_weight(weights: Callable[..., Tensor]) -> None:
    fields = {"window": 3, "stride": 1}
    one, other = (weights(example_batch(), prune=prune, **fields) for prune in (True, False))
    torch.testing.assert_close(one, other, equal_nan=True)


def test_the_preset_holds_what_the_paper_says(method_of: Callable[..., Method]) -> None:
    method = method_of("method=shear")
    assert method.advantage_shapers == {"shear": SpanDivergence(window=100, stride=25)}
    assert (method.surrogate.low, method.surrogate.high) == (0.2, 0.28)  # type: ignore[attr-defined]  # PPOClip
    assert not method.regularizers


def test_without_its_weights_it_is_grpo_with_a_higher_clip(method_of: Callable[..., Method]) -> None:
    off = replace(method_of("method=shear", "~method.advantage_shapers.shear"), name="grpo")
    assert off == method_of("method=grpo", "method/surrogate=clip_higher", "method.updates_per_batch=16")


def test_its_numbers_are_the_weights_by_outcome(batch_of: Make, method_of: Callable[..., Method]) -> None:
    # the group above: weights 2 1 2 for the right rollout and 1 2 for the wrong one, times 5 / 28; a second
    # group has one outcome
    batch = batch_of([1, 0, 1, 1], lengths=[3, 2, 1, 1], prompt_of=[0, 0, 1, 1])
    batch = states(batch, [[3], [4], [9], [5], [7], [1], [2]])
    shaper = SpanDivergence(window=1, stride=1)
    method = replace(method_of("method=shear"), advantage_shapers={"shear": shaper})
    told = {k.removeprefix("advantage_shapers.shear/"): v for k, v in prepare(method, batch).measured.items()}
    assert told["mixed_groups"] == 0.5
    assert told["weight_mean"] == pytest.approx(8 / 5 * 5 / 28)
    assert told["weight_right"] == pytest.approx(5 / 3 * 5 / 28)
    assert told["weight_wrong"] == pytest.approx(3 / 2 * 5 / 28)
    # deviations over means: sqrt(2 / 9) / (5 / 3) and (1 / 2) / (3 / 2)
    assert told["spread_in_rollout"] == pytest.approx(((2 / 9) ** 0.5 / (5 / 3) + 1 / 3) / 2)


def test_hidden_states_are_not_kept_for_the_update(method_of: Callable[..., Method]) -> None:
    prepared = prepare(method_of("method=shear"), example_batch())
    assert "old_hidden" not in prepared.batch.columns
    assert "old_entropy" in prepared.batch.columns


def test_half_precision_states_are_compared_in_single_precision(method_of: Callable[..., Method]) -> None:
    batch = example_batch()
    rounded = batch.with_columns(old_hidden=batch.columns["old_hidden"].bfloat16())
    wide = batch.with_columns(old_hidden=rounded.columns["old_hidden"].float())
    method = method_of("method=shear")
    assert torch.equal(prepare(method, rounded).advantages, prepare(method, wide).advantages)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"window": 4, "stride": 5}, "stride must be in 1..window=4, or tokens would be skipped, got 5"),
        ({"stride": 0}, "stride must be in 1"),
        ({"eps": 0.0}, "eps must be above 0 and iterations at least 1, got 0 and 50"),
        ({"iterations": 0}, "iterations at least 1"),
    ],
)
def test_spans_that_make_no_sense_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SpanDivergence(**fields)


def test_what_only_the_transport_reads_is_inert_elsewhere() -> None:
    assert SpanDivergence().inert(updates_per_batch=1) == {}
    idle = SpanDivergence(distance=SpanDistance.chamfer).inert(updates_per_batch=1)
    assert sorted(idle) == ["eps", "eps_unit", "iterations", "prune"]
