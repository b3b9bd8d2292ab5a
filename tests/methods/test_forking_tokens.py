"""Forking tokens, arXiv:2506.01939: the properties that its card lists, with numbers worked out by hand."""

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
from tokensweep.loss.tables import Batch, Scope, pack
from tokensweep.methods.forking_tokens import EntropyWeight, SelectedMean, SelectedMeanMicro, Side
from tokensweep.methods.grpo import TokenMean

NUM_TOKENS = 71  # of the example batch


@pytest.fixture
def forking(method_of: Callable[..., Method]) -> Method:
    return method_of("method=forking_tokens")


@pytest.fixture
def dapo(method_of: Callable[..., Method]) -> Method:
    return method_of("method=dapo")


def one_minibatch() -> Batch:
    batch = example_batch()
    return replace(batch, minibatch_of=torch.zeros(12).long(), microbatch_of=torch.zeros(12).long())


def with_weight(method: Method, **fields: object) -> Method:
    weight = EntropyWeight(**fields)  # type: ignore[arg-type]  # mixed types
    return replace(method, token_weights={"entropy": weight})


def kept(method: Method, batch: Batch) -> list[bool]:
    return [bool(weight) for weight in prepare(method, batch).weights]


def run(method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    return loss_and_gradient(method, prepare(method, batch), near_old(batch))


def small_batch(entropy: list[float], *, lengths: list[int]) -> Batch:
    """Two rollouts of one prompt, rewards 1 and 0, old log-probabilities 0, float64."""
    batch = pack(
        [[1], [1]],
        completions=[[2] * length for length in lengths],
        prompt_of=[0, 0],
        accuracy=[1, 0],
        truncated=[False, False],
        max_tokens=8,
    )
    rewards = batch.rewards.double()
    columns = {"old_entropy": torch.tensor(entropy, dtype=torch.float64)}
    columns["old_logprobs"] = torch.zeros(sum(lengths), dtype=torch.float64)
    return replace(batch, rewards=rewards, accuracy=rewards).with_columns(**columns)


def test_fraction_one_is_dapo_bit_by_bit(forking: Method, dapo: Method) -> None:
    batch = example_batch()
    for got, expected in zip(run(with_weight(forking, fraction=1.0), batch), run(dapo, batch), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.2, 0.5, 1.0])
def test_exactly_the_rounded_up_share_of_all_tokens_is_kept(forking: Method, fraction: float) -> None:
    batch = example_batch()
    assert sum(kept(with_weight(forking, fraction=fraction), batch)) == max(
        1, math.ceil(fraction * NUM_TOKENS)
    )


def test_a_product_that_should_be_whole_is_not_rounded_up(forking: Method) -> None:
    # 0.07 * 100 is 7.000000000000001 in floats; seven tokens are meant
    batch = small_batch([float(i) for i in range(100)], lengths=[60, 40])
    assert sum(kept(with_weight(forking, fraction=0.07), batch)) == 7


def test_equal_entropies_are_kept_in_order_and_never_too_many(forking: Method) -> None:
    # 2 of 5 tokens: the 0.9 and the first of the three 0.5
    batch = small_batch([0.1, 0.5, 0.9, 0.5, 0.5], lengths=[2, 3])
    assert kept(with_weight(forking, fraction=0.4), batch) == [False, True, True, False, False]


def test_thousands_of_equal_entropies_are_kept_in_order(forking: Method) -> None:
    # many positions of a trained policy have the entropy 0 exactly
    batch = small_batch([0.0] * 5000, lengths=[2000, 3000])
    assert kept(forking, batch) == [True] * 1000 + [False] * 4000


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        # 2 rollouts of 2 and 3 tokens, fraction 0.4: ceil(0.8) = 1 and ceil(1.2) = 2; together ceil(2) = 2
        (Scope.rollout, [False, True, True, True, False]),
        (Scope.group, [False, False, True, True, False]),
        (Scope.batch, [False, False, True, True, False]),
    ],
)
def test_the_scope_is_the_set_that_the_share_is_taken_of(
    forking: Method, scope: Scope, expected: list[bool]
) -> None:
    batch = small_batch([0.1, 0.3, 0.9, 0.8, 0.7], lengths=[2, 3])
    assert kept(with_weight(forking, fraction=0.4, scope=scope), batch) == expected


@pytest.mark.parametrize(("scope", "column"), [(Scope.mini, "minibatch_of"), (Scope.micro, "microbatch_of")])
def test_the_share_is_exact_in_each_part_of_the_batch(forking: Method, scope: Scope, column: str) -> None:
    batch = example_batch()
    selected = torch.tensor(kept(with_weight(forking, scope=scope), batch))
    part = getattr(batch, column)[batch.rollout_of]
    for number in part.unique().tolist():
        inside = part == number
        assert int(selected[inside].sum()) == math.ceil(0.2 * int(inside.sum()))


def test_high_and_low_share_out_the_tokens(forking: Method) -> None:
    batch = example_batch()
    high, low = (kept(with_weight(forking, side=side), batch) for side in (Side.high, Side.low))
    assert all(a != b for a, b in zip(high, low, strict=True))


def test_the_losses_of_both_sides_add_up_to_that_of_all_tokens(forking: Method, dapo: Method) -> None:
    # each side is a mean over its own tokens: 15 = ceil(0.2 * 71) high, 56 low
    batch = one_minibatch()
    high, low = (run(with_weight(forking, side=side), batch) for side in (Side.high, Side.low))
    for part, other, whole in zip(high, low, run(dapo, batch), strict=True):
        torch.testing.assert_close(15 * part + 56 * other, NUM_TOKENS * whole)


def test_random_keeps_as_many_as_high_by_the_random_column_alone(forking: Method) -> None:
    batch = example_batch()
    method = with_weight(forking, side=Side.random)
    selected = kept(method, batch)
    assert sum(selected) == 15
    assert method.needs() == {"old_logprobs", "uniform"}
    # the 15 largest of the column uniform
    limit = batch.columns["uniform"].sort(descending=True).values[14]
    assert selected == (batch.columns["uniform"] >= limit).tolist()


def test_random_under_a_threshold_keeps_as_many_as_pass_it(forking: Method) -> None:
    batch = example_batch()
    passing = int((batch.columns["old_entropy"] >= 0.6).sum())
    assert sum(kept(with_weight(forking, side=Side.random, threshold=0.6), batch)) == passing
    assert 0 < passing < NUM_TOKENS


def test_a_threshold_keeps_what_reaches_it(forking: Method) -> None:
    batch = small_batch([0.1, 0.672, 0.9, 0.6719, 0.5], lengths=[2, 3])
    assert kept(with_weight(forking, threshold=0.672), batch) == [False, True, True, False, False]
    assert kept(with_weight(forking, threshold=0.672, side=Side.low), batch) == [
        True,
        False,
        False,
        True,
        True,
    ]


def test_a_threshold_that_nothing_reaches_gives_a_loss_of_zero(forking: Method) -> None:
    loss, gradient = run(with_weight(forking, threshold=100.0), example_batch())
    assert loss == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("change", [lambda h: h + 7, lambda h: h**3, torch.exp])
def test_a_monotone_change_of_the_entropy_changes_nothing(
    forking: Method, change: Callable[[Tensor], Tensor]
) -> None:
    batch = example_batch()
    changed = batch.with_columns(old_entropy=change(batch.columns["old_entropy"]))
    assert kept(forking, changed) == kept(forking, batch)


@pytest.mark.parametrize("preset", ["forking_tokens", "forking_tokens_as_released"])
def test_an_unselected_token_has_no_gradient_and_entropy_none_at_all(
    preset: str, method_of: Callable[..., Method]
) -> None:
    method, batch = method_of(f"method={preset}"), one_minibatch()
    prepared = prepare(method, batch)
    now = near_old(batch, spread=0.01)  # nothing is clipped
    _, gradient = loss_and_gradient(method, prepared, now)  # asserts that entropy gets no gradient
    entropy = batch.columns["old_entropy"] if preset == "forking_tokens" else now.entropy
    top = entropy >= entropy.sort(descending=True).values[14]
    assert torch.equal(gradient != 0, top & (prepared.advantages != 0))


def test_the_selected_mean_is_the_token_mean_over_the_selected_share(forking: Method) -> None:
    # 10 tokens, 2 selected: 10 / 2 = 5 times the all-token form
    batch = small_batch([0.1, 0.2, 0.9, 0.3, 0.1, 0.2, 0.8, 0.3, 0.1, 0.2], lengths=[4, 6])
    selected, everything = run(forking, batch), run(replace(forking, aggregate=TokenMean()), batch)
    torch.testing.assert_close(selected[0], 5 * everything[0])
    torch.testing.assert_close(selected[1], 5 * everything[1])
    assert everything[1].abs().sum() > 0


def test_the_selected_mean_by_hand(forking: Method) -> None:
    # A = 1 and -1; tokens 1 (ratio 1.1) and 3 (ratio 0.9) selected: loss -(1.1 - 0.9) / 2
    batch = small_batch([0.1, 0.9, 0.2, 0.8], lengths=[2, 2])
    ratios = torch.tensor([3.0, 1.1, 3.0, 0.9], dtype=torch.float64)
    method = with_weight(replace(forking, advantage=replace(forking.advantage, eps=0.0)), fraction=0.5)  # type: ignore[type-var]  # a dataclass
    now = Policies(ratios.log(), torch.zeros(4, dtype=torch.float64))
    loss, gradient = loss_and_gradient(method, prepare(method, batch), now)
    torch.testing.assert_close(loss, torch.tensor(-0.1, dtype=torch.float64))
    torch.testing.assert_close(gradient, torch.tensor([0, -0.55, 0, 0.45], dtype=torch.float64))


def test_as_released_selects_in_each_micro_batch_by_the_current_policy(
    method_of: Callable[..., Method],
) -> None:
    # rollouts of 2 and 5 tokens in two micro-batches: 1 and ceil(0.2 * 5) = 1 selected; on-policy the token
    # of each micro-batch pulls with A / 1 / 2 micro-batches
    method = method_of("method=forking_tokens_as_released", "method.advantage.eps=0")
    batch = replace(small_batch([0.0] * 7, lengths=[2, 5]), microbatch_of=torch.tensor([0, 1]))
    current = torch.tensor([0.1, 0.4, 0.3, 0.2, 0.9, 0.3, 0.1], dtype=torch.float64)
    now = Policies(torch.zeros(7, dtype=torch.float64), current)
    _, gradient = loss_and_gradient(method, prepare(method, batch), now)
    assert gradient.tolist() == [0, -0.5, 0, 0, 0.5, 0, 0]


def test_the_kept_fraction_counts_the_selected_tokens(method_of: Callable[..., Method]) -> None:
    batch = one_minibatch()
    now = near_old(batch)
    for preset in ("forking_tokens", "forking_tokens_as_released"):
        method = method_of(f"method={preset}")
        micro = prepare(method, batch).micro(torch.arange(12))
        metrics = micro_loss(method, micro, now.logprobs[micro.rows], now.entropy[micro.rows]).metrics
        assert [int(x) for x in metrics["kept_fraction"]] == [15, NUM_TOKENS]


def test_the_current_policy_is_known_inside_a_micro_batch_only() -> None:
    with pytest.raises(ValueError, match="known for one micro-batch only, got scope batch: set scope=micro"):
        EntropyWeight(policy=Policy.current)


def test_the_selected_mean_refuses_weights_that_are_not_known_beforehand(forking: Method) -> None:
    with pytest.raises(ValueError, match="take method/aggregate=selected_mean_micro"):
        with_weight(forking, policy=Policy.current, scope=Scope.micro)
    assert isinstance(forking.aggregate, SelectedMean)


def test_both_selected_means_agree_on_a_mini_batch_of_one_micro_batch(forking: Method) -> None:
    batch = one_minibatch()
    for got, expected in zip(
        run(replace(forking, aggregate=SelectedMeanMicro()), batch), run(forking, batch), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_the_presets_hold_what_paper_and_code_say(method_of: Callable[..., Method]) -> None:
    forking, released = method_of("method=forking_tokens"), method_of("method=forking_tokens_as_released")
    assert forking.token_weights == {"entropy": EntropyWeight(fraction=0.2)}
    assert released.token_weights == {"entropy": EntropyWeight(scope=Scope.micro, policy=Policy.current)}
    for method, base in ((forking, "dapo"), (released, "dapo_recipe")):
        dapo = method_of(f"method={base}")
        same = {"name": dapo.name, "token_weights": {}, "aggregate": dapo.aggregate}
        assert replace(method, **same) == dapo  # type: ignore[arg-type]  # mixed types


def test_a_threshold_makes_fraction_and_scope_inert(forking: Method) -> None:
    assert inert_keys(forking) == {}
    reasons = inert_keys(with_weight(forking, threshold=0.672))
    assert set(reasons) == {"token_weights.entropy.fraction", "token_weights.entropy.scope"}
    assert "the threshold replaces it" in reasons["token_weights.entropy.fraction"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\], got 0"),
        ({"fraction": 1.5}, r"fraction must be in \(0, 1\], got 1.5"),
        ({"threshold": -1.0}, "threshold must be at least 0 nats, got -1"),
        ({"fraction": 1.0, "side": Side.low}, "fraction 1 leaves none"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EntropyWeight(**fields)  # type: ignore[arg-type]  # mixed types
