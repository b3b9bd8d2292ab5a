"""EAPO and its quadrants, arXiv:2604.11056: the properties that its card lists, with numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import Policies, example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import micro_loss, prepare
from tokensweep.loss.slots import Policy
from tokensweep.loss.tables import Batch, Scope
from tokensweep.methods.eapo import EntropyScaledAdvantage, Quadrant, QuadrantWeight

MakeBatch = Callable[..., Batch]


@pytest.fixture
def eapo(method_of: Callable[..., Method]) -> Method:
    """Advantages of ±1 before the shaping where half are right."""
    return method_of("method=eapo", "method.advantage.eps=0")


@pytest.fixture
def isolated(method_of: Callable[..., Method]) -> Method:
    return method_of("method=eapo_quadrant", "method.advantage.eps=0")


def shape(method: Method, **fields: object) -> Method:
    part = EntropyScaledAdvantage(**fields)  # type: ignore[arg-type]  # mixed types
    return replace(method, advantage_shapers={"eapo": part})


def keep(method: Method, **fields: object) -> Method:
    part = QuadrantWeight(**fields)  # type: ignore[arg-type]  # mixed types
    return replace(method, token_weights={"quadrant": part})


def advantages(method: Method, batch: Batch) -> list[float]:
    return prepare(method, batch).advantages.tolist()


def run(method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    return loss_and_gradient(method, prepare(method, batch), near_old(batch))


@pytest.fixture
def pair(batch_of: MakeBatch) -> Batch:
    """A right and a wrong rollout, A = 1 1 -1 -1; entropies with mean 1 and deviation 1: z = -1 1 -1 1."""
    return batch_of([1, 0], lengths=[2, 2], old_entropy=[0, 2, 0, 2])


def test_uncertain_tokens_weigh_more_in_both_polarities_up_to_a_limit(eapo: Method, pair: Batch) -> None:
    # |z| = 1 is held at |A| / 2: 1 ± 0.2 / 2
    assert advantages(eapo, pair) == pytest.approx([0.9, 1.1, -0.9, -1.1])


def test_below_the_limit_the_bonus_is_a_share_of_z(eapo: Method, batch_of: MakeBatch) -> None:
    # mean 1, variance (1 + 1 + 1 + 9) / 4 = 3 of the population; the limit |A| / 0.5 = 2 is not reached
    batch = batch_of([1, 0], lengths=[3, 1], old_entropy=[0, 0, 0, 4])
    low, high = 1 - 0.2 / math.sqrt(3), -1 - 0.2 * 3 / math.sqrt(3)
    assert advantages(shape(eapo, bound=0.5), batch) == pytest.approx([low] * 3 + [high])


def test_each_group_has_a_mean_of_its_own(eapo: Method, batch_of: MakeBatch) -> None:
    entropy = [0, 2, 0, 2, 10, 12, 10, 12]
    batch = batch_of([1, 0, 1, 0], lengths=[2] * 4, prompt_of=[0, 0, 1, 1], old_entropy=entropy)
    assert advantages(eapo, batch) == pytest.approx([0.9, 1.1, -0.9, -1.1] * 2)
    # over the batch the mean is 6: the first group is below, the second above
    wide = advantages(shape(eapo, scope=Scope.batch), batch)
    assert wide == pytest.approx([0.9, 0.9, -0.9, -0.9, 1.1, 1.1, -1.1, -1.1])


def test_a_shift_and_a_scale_of_the_entropies_change_nothing(eapo: Method) -> None:
    batch = example_batch()
    moved = batch.with_columns(old_entropy=3 * batch.columns["old_entropy"] + 7)
    torch.testing.assert_close(prepare(eapo, moved).advantages, prepare(eapo, batch).advantages)


def test_the_polarities_mirror_each_other(eapo: Method) -> None:
    batch = example_batch()
    turned = replace(batch, rewards=1 - batch.rewards)
    assert torch.equal(prepare(eapo, turned).advantages, -prepare(eapo, batch).advantages)


def test_no_sign_changes_and_the_change_is_bounded(eapo: Method) -> None:
    batch = example_batch()
    before = prepare(replace(eapo, advantage_shapers={}), batch).advantages
    for strength, bound in ((0.2, 2.0), (1.0, 2.0), (0.9, 1.0)):
        after = prepare(shape(eapo, strength=strength, bound=bound), batch).advantages
        assert torch.equal(after.sign(), before.sign())
        assert ((after - before).abs() <= strength * before.abs() / bound + 1e-12).all()


def test_without_strength_it_is_the_base_method_bit_by_bit(
    eapo: Method, method_of: Callable[..., Method]
) -> None:
    dapo = method_of("method=dapo", "method.reward_terms.overlong.weight=0", "method.advantage.eps=0")
    batch = example_batch()
    for ours, theirs in zip(run(shape(eapo, strength=0.0), batch), run(dapo, batch), strict=True):
        assert torch.equal(ours, theirs)


def test_equal_entropies_change_nothing_though_their_mean_is_rounded(
    eapo: Method, batch_of: MakeBatch
) -> None:
    # (0.1 + 0.1 + 0.1) / 3 is 0.10000000000000002 in floats
    batch = batch_of([1, 0], lengths=[1, 2], old_entropy=[0.1] * 3)
    assert advantages(eapo, batch) == [1, -1, -1]


def test_a_quadrant_that_is_off_keeps_its_advantages(eapo: Method, pair: Batch) -> None:
    expected = {"plr": [1, 1.1, -0.9, -1.1], "phr": [0.9, 1, -0.9, -1.1]}
    expected |= {"nlr": [0.9, 1.1, -1, -1.1], "nhr": [0.9, 1.1, -0.9, -1]}
    for quadrant, values in expected.items():
        assert advantages(shape(eapo, off=(quadrant,)), pair) == pytest.approx(values)
    assert advantages(shape(eapo, off=tuple(expected)), pair) == [1, 1, -1, -1]


def test_the_quadrants_share_out_the_tokens(isolated: Method, pair: Batch) -> None:
    kept = {
        quadrant: prepare(keep(isolated, keep=(quadrant,)), pair).weights.tolist() for quadrant in Quadrant
    }
    assert kept == {"plr": [1, 0, 0, 0], "phr": [0, 1, 0, 0], "nlr": [0, 0, 1, 0], "nhr": [0, 0, 0, 1]}


def test_a_token_at_the_mean_is_high(isolated: Method, batch_of: MakeBatch) -> None:
    batch = batch_of([1, 0], lengths=[2, 1], old_entropy=[0, 1, 2])
    assert prepare(isolated, batch).weights.tolist() == [0, 1, 0]


def test_the_losses_of_the_quadrants_add_up_to_that_of_all_tokens(isolated: Method) -> None:
    batch = example_batch()
    parts = [run(keep(isolated, keep=(quadrant,)), batch) for quadrant in Quadrant]
    whole = run(replace(isolated, token_weights={}), batch)
    for index in (0, 1):
        torch.testing.assert_close(sum(part[index] for part in parts), whole[index])
    assert all((part[1] != 0).any() for part in parts)


def test_all_quadrants_are_the_base_method_bit_by_bit(isolated: Method) -> None:
    batch = example_batch()
    everything = keep(isolated, keep=tuple(Quadrant))
    for ours, theirs in zip(
        run(everything, batch), run(replace(isolated, token_weights={}), batch), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_shuffled_deals_the_entropies_of_a_group_out_again(isolated: Method, batch_of: MakeBatch) -> None:
    # lots 0.9 0.1 | 0.5 0.3 deal 0 1 2 3 as 3 0 | 2 1; mean 1.5: the first and the third are high
    lots = [0.9, 0.1, 0.5, 0.3]
    batch = batch_of([1, 0], lengths=[2, 2], old_entropy=[0, 1, 2, 3], uniform=lots)
    high = keep(isolated, keep=("phr", "nhr"), shuffled=True)
    assert prepare(high, batch).weights.tolist() == [1, 0, 1, 0]


def test_shuffled_stays_inside_the_group(eapo: Method, batch_of: MakeBatch) -> None:
    lots = [0.9, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.4]
    entropy = [0, 2, 0, 2, 10, 12, 10, 12]
    batch = batch_of([1, 0, 1, 0], lengths=[2] * 4, prompt_of=[0, 0, 1, 1], old_entropy=entropy, uniform=lots)
    # falling in the first group, rising in the second
    got = advantages(shape(eapo, shuffled=True), batch)
    assert got == pytest.approx([1.1, 1.1, -0.9, -0.9, 0.9, 0.9, -1.1, -1.1])


def test_of_the_current_policy_each_micro_batch_has_its_own_mean(eapo: Method, pair: Batch) -> None:
    # the old entropies would give 0.9 1.1 -0.9 -1.1, over 4 tokens
    current = shape(eapo, policy=Policy.current, scope=Scope.micro)
    now = Policies(torch.zeros(4).double(), torch.tensor([2.0, 0, 0, 2]).double())
    _, gradient = loss_and_gradient(current, prepare(current, pair), now)
    assert gradient.tolist() == pytest.approx([-1.1 / 4, -0.9 / 4, 0.9 / 4, 1.1 / 4])


def test_of_the_current_policy_a_token_of_weight_zero_is_in_no_mean(eapo: Method, pair: Batch) -> None:
    current = EntropyScaledAdvantage(policy=Policy.current, scope=Scope.micro)
    table = prepare(replace(eapo, advantage_shapers={}), pair).micro(torch.arange(2)).table
    view = table.view(logprobs=torch.zeros(4).double(), entropy=torch.tensor([0, 2, 5.0, torch.nan]).double())
    view = replace(view, weights=torch.tensor([1.0, 1, 0, 0]).double())
    assert current(view).tolist() == pytest.approx([0.9, 1.1, -1, -1])


def test_its_numbers_are_shares_and_mean_advantages_of_the_quadrants(eapo: Method, pair: Batch) -> None:
    got = prepare(eapo, pair).measured
    shares = {f"advantage_shapers.eapo/{quadrant}_fraction": 0.25 for quadrant in Quadrant}
    means = {"plr": 0.9, "phr": 1.1, "nlr": -0.9, "nhr": -1.1}
    assert got == pytest.approx(
        shares | {f"advantage_shapers.eapo/{name}_advantage": value for name, value in means.items()}
    )


def test_a_quadrant_without_tokens_has_no_mean(isolated: Method, batch_of: MakeBatch) -> None:
    got = prepare(isolated, batch_of([1, 1], lengths=[1, 1], old_entropy=[0, 1])).measured
    assert got["token_weights.quadrant/nhr_fraction"] == 0
    assert "token_weights.quadrant/nhr_advantage" not in got


def test_of_the_current_policy_the_numbers_come_in_the_update(eapo: Method, pair: Batch) -> None:
    current = shape(eapo, policy=Policy.current, scope=Scope.micro)
    prepared = prepare(current, pair)
    assert prepared.measured == {}
    entropy = torch.tensor([0.0, 2, 2, 2]).double()  # mean 1.5
    got = micro_loss(current, prepared.micro(torch.arange(2)), torch.zeros(4).double(), entropy).measured
    assert [int(x) for x in got["advantage_shapers.eapo/nhr_fraction"]] == [2, 4]
    total, count = got["advantage_shapers.eapo/nhr_advantage"]
    assert float(total) == pytest.approx(-2.2)
    assert int(count) == 2


def test_the_presets_hold_what_the_paper_says(method_of: Callable[..., Method]) -> None:
    eapo, isolated, dapo = (method_of(f"method={name}") for name in ("eapo", "eapo_quadrant", "dapo"))
    assert eapo.advantage_shapers == {
        "eapo": EntropyScaledAdvantage(strength=0.2, bound=2, scope=Scope.group)
    }
    assert isolated.token_weights == {"quadrant": QuadrantWeight(keep=("phr",))}
    verifier = {"verifier": dapo.reward_terms["verifier"]}
    for method, updates in ((eapo, 16), (isolated, 8)):
        bare = replace(method, name="dapo", advantage_shapers={}, token_weights={}, updates_per_batch=16)
        assert bare == replace(dapo, reward_terms=verifier)
        assert method.updates_per_batch == updates


@pytest.mark.parametrize("part", [EntropyScaledAdvantage, QuadrantWeight])
def test_the_current_policy_knows_no_group(part: type[EntropyScaledAdvantage] | type[QuadrantWeight]) -> None:
    with pytest.raises(ValueError, match="known for one micro-batch only, got scope group"):
        part(policy=Policy.current)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="strength must be at least 0 and bound above 0, got 0"):
        EntropyScaledAdvantage(bound=0)
    with pytest.raises(ValueError, match="off must name quadrants out of phr, plr, nlr, nhr, got high"):
        EntropyScaledAdvantage(off=("high",))
    with pytest.raises(ValueError, match="keep must name a quadrant, got none"):
        QuadrantWeight(keep=())
