"""The loss of a micro-batch: what enters, what is divided by what, what is counted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import micro_loss, prepare, provisional_score, score
from tokensweep.loss.slots import AdvantageShaper, Policy, Regularizer, RewardTerm
from tokensweep.loss.tables import Batch, Totals, View, pack
from tokensweep.methods.forking_tokens import EntropyWeight, Side
from tokensweep.methods.holderpo import HolderRatio


@dataclass(frozen=True)
class Power(AdvantageShaper):
    """Signed power of the advantage: does not commute with Times."""

    exponent: float
    policy: Policy = Policy.old

    def __call__(self, view: View) -> Tensor:
        return view.advantages.sign() * view.advantages.abs() ** self.exponent


@dataclass(frozen=True)
class Times(AdvantageShaper):
    factor: float
    policy: Policy = Policy.old

    def __call__(self, view: View) -> Tensor:
        return self.factor * view.advantages


@dataclass(frozen=True)
class EntropyPenalty(Regularizer):
    """Mean entropy over the tokens of the mini-batch."""

    differentiates: bool

    @property
    def differentiates_entropy(self) -> bool:
        return self.differentiates

    def __call__(self, view: View) -> Tensor:
        return (view.entropy + 0 * view.logprobs).sum() / view.totals.tokens


def hand_batch() -> Batch:
    """One group of two rollouts, 2 and 2 tokens, rewards 1 and 0, old log-probabilities 0."""
    batch = pack(
        [[1], [1]],
        completions=[[2, 2], [2, 2]],
        prompt_of=[0, 0],
        accuracy=[1, 0],
        truncated=[False, False],
        max_tokens=2,
    )
    return batch.with_columns(old_logprobs=torch.zeros(4), old_entropy=torch.tensor([0.1, 0.9, 0.8, 0.2]))


def test_every_mini_batch_has_its_own_denominators(grpo: Method) -> None:
    # mini-batch 0 holds the rollouts 0 2 4 6 8 10, the other the rest
    method = replace(grpo, token_weights={"entropy": EntropyWeight(side=Side.low)})
    prepared = prepare(method, example_batch())
    even = torch.arange(12)[prepared.batch.rollout_of] % 2 == 0
    assert prepared.totals[0] == Totals(
        tokens=35,  # 5 + 3 + 4 + 6 + 10 + 7
        rollouts=6,
        weight=float(prepared.weights[even].sum()),
        micro_batches=2,
    )
    assert prepared.totals[1].tokens == 36  # 9 + 7 + 8 + 3 + 5 + 4
    assert prepared.totals[0].weight + prepared.totals[1].weight == 56  # 71 - ceil(14.2)


def test_tokens_without_advantage_or_weight_never_reach_the_head(grpo: Method) -> None:
    batch = example_batch()  # the last four rollouts carry no signal: 10 + 5 + 7 + 4 tokens
    assert prepare(grpo, batch).active.sum() == 71 - 26
    method = replace(grpo, token_weights={"entropy": EntropyWeight()})
    prepared = prepare(method, batch)
    signal = (prepared.advantages != 0) & (prepared.weights != 0)
    assert torch.equal(prepared.active, signal)


def test_a_ratio_over_rollouts_gets_all_tokens_of_those_with_a_signal(grpo: Method) -> None:
    prepared = prepare(replace(grpo, ratio=HolderRatio()), example_batch())
    assert torch.equal(prepared.active, prepared.batch.rollout_of < 8)
    # advantages on single tokens only: their rollouts stay whole
    some = replace(grpo, ratio=HolderRatio(), advantage_shapers={"first": FirstTokens()})
    assert torch.equal(prepare(some, example_batch()).active, prepared.active)


@dataclass(frozen=True)
class FirstTokens(AdvantageShaper):
    """Advantages on the first token of each rollout only."""

    policy: Policy = Policy.old

    def __call__(self, view: View) -> Tensor:
        return torch.where(view.completion_position == 0, view.advantages, 0.0)


def test_a_regulariser_sees_every_token(grpo: Method) -> None:
    method = replace(grpo, regularizers={"entropy": EntropyPenalty(differentiates=True)})
    assert prepare(method, example_batch()).active.all()


def test_a_micro_batch_lists_its_rows_in_order(grpo: Method) -> None:
    micro = prepare(grpo, hand_batch()).micro(torch.tensor([1, 0]))
    assert micro.rollouts.tolist() == [0, 1]
    assert micro.rows.tolist() == [0, 1, 2, 3]
    assert micro.table.rollout_of.tolist() == [0, 0, 1, 1]
    only = prepare(grpo, hand_batch()).micro(torch.tensor([1]))
    assert only.rows.tolist() == [2, 3]
    assert only.table.rollout_of.tolist() == [0, 0]
    assert only.table.lengths.tolist() == [2]


def test_rollouts_of_two_mini_batches_are_refused(grpo: Method) -> None:
    with pytest.raises(ValueError, match=r"must be of one mini-batch, got mini-batches \[0, 1\]"):
        prepare(grpo, example_batch()).micro(torch.tensor([0, 1]))


def test_a_missing_column_is_named_before_anything_runs(grpo: Method) -> None:
    batch = replace(hand_batch(), columns={"old_logprobs": torch.zeros(4)})
    with pytest.raises(ValueError, match="column 'old_entropy' must exist"):
        prepare(replace(grpo, token_weights={"entropy": EntropyWeight()}), batch)


def test_shapers_act_in_the_order_of_the_map(grpo: Method) -> None:
    # A = 1/2 / (1/2 + 1e-6) is close to 1: squared then doubled 2, doubled then squared 4
    first, second = Power(exponent=2.0), Times(factor=2.0)
    for shapers, expected in (({"a": first, "b": second}, 2), ({"a": second, "b": first}, 4)):
        advantages = prepare(replace(grpo, advantage_shapers=shapers), hand_batch()).advantages
        assert advantages.tolist() == pytest.approx([expected] * 2 + [-expected] * 2, rel=1e-4)


def test_the_metrics_by_hand(grpo: Method) -> None:
    # A > 0: ratios 1.5 (clipped) and 1; A < 0: 0.5 (clipped) and 1.5 (not)
    logprobs = torch.tensor([1.5, 1.0, 0.5, 1.5]).log().requires_grad_()
    micro = prepare(grpo, hand_batch()).micro(torch.arange(2))
    metrics = micro_loss(grpo, micro, logprobs, logprobs).metrics
    sums = {name: total.item() for name, (total, _) in metrics.items()}
    assert {count.item() for _, count in metrics.values()} == {4}
    assert sums == pytest.approx(
        {
            "clip_fraction": 2,
            "ratio": 4.5,
            "approx_kl": 2 * 0.094535 + 0.193147,  # r - 1 - log r: 0.5 - 0.405465 twice, -0.5 + 0.693147
            "signal_fraction": 4,
            "kept_fraction": 4,
        },
        abs=1e-5,
    )


def test_metrics_do_not_depend_on_what_was_left_out(grpo: Method) -> None:
    method = replace(grpo, token_weights={"entropy": EntropyWeight(fraction=0.5)})
    prepared = prepare(method, example_batch())
    now = near_old(prepared.batch)

    def metrics(active: Tensor) -> dict[str, list[float]]:
        micro = replace(prepared, active=active).micro(torch.tensor([0, 4, 8]))
        found = micro_loss(method, micro, now.logprobs[micro.rows], now.entropy[micro.rows]).metrics
        return {name: [float(x), float(n)] for name, (x, n) in found.items()}

    everything = metrics(torch.ones_like(prepared.active))
    for name, values in metrics(prepared.active).items():
        assert values == pytest.approx(everything[name]), name


def test_a_micro_batch_without_signal_gives_zero_and_stays_in_the_graph(grpo: Method) -> None:
    prepared = prepare(grpo, example_batch())
    micro = prepared.micro(torch.tensor([8, 10]))  # no signal in the third prompt
    assert micro.rows.numel() == 0
    logprobs = torch.zeros(0, dtype=torch.float64, requires_grad=True)
    loss = micro_loss(grpo, micro, logprobs, torch.zeros(0, dtype=torch.float64)).loss
    loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert loss == 0
    assert logprobs.grad is not None


def test_a_regulariser_is_added_with_its_own_normaliser(grpo: Method) -> None:
    method = replace(grpo, regularizers={"entropy": EntropyPenalty(differentiates=False)})
    batch = hand_batch()
    now = near_old(batch, spread=0.1)
    now = replace(now, logprobs=now.logprobs.float(), entropy=torch.tensor([0.1, 0.2, 0.3, 0.4]))
    with_it = loss_and_gradient(method, prepare(method, batch), now)
    without = loss_and_gradient(grpo, prepare(grpo, batch), now)
    assert (with_it[0] - without[0]).item() == pytest.approx(0.25)  # mean of 0.1 0.2 0.3 0.4
    torch.testing.assert_close(with_it[1], without[1])


@pytest.mark.parametrize("differentiates", [True, False])
def test_entropy_has_a_gradient_only_where_a_component_declares_it(
    differentiates: bool, grpo: Method
) -> None:
    method = replace(grpo, regularizers={"entropy": EntropyPenalty(differentiates=differentiates)})
    micro = prepare(method, hand_batch()).micro(torch.arange(2))
    logprobs, entropy = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    micro_loss(method, micro, logprobs, entropy).loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert (entropy.grad is not None) is differentiates


def test_prepared_carries_no_gradient(grpo: Method) -> None:
    batch = hand_batch()
    batch = replace(batch, rewards=batch.rewards.requires_grad_())
    prepared = prepare(grpo, batch)
    assert not prepared.advantages.requires_grad
    assert not prepared.weights.requires_grad


@dataclass(frozen=True)
class Telling(AdvantageShaper):
    """Changes nothing and tells what it sees."""

    def __call__(self, view: View) -> Tensor:
        return view.advantages

    def batch_metrics(self, whole: View) -> dict[str, float]:
        return {"advantage": float(whole.advantages.max()), "weight": float(whole.weights.sum())}

    def metrics(self, view: View, log_ratio: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        assert not view.logprobs.requires_grad
        return {"ratio": (log_ratio.exp().sum(), torch.tensor(log_ratio.numel()))}


def test_parts_tell_numbers_of_their_own(grpo: Method) -> None:
    # Advantages are ±1; Times doubles them before or after Telling, which is told the end of the chain.
    method = replace(grpo, advantage_shapers={"telling": Telling(), "twice": Times(factor=2)})
    prepared = prepare(method, hand_batch())
    assert prepared.measured == pytest.approx(
        {"advantage_shapers.telling/advantage": 2, "advantage_shapers.telling/weight": 4}, abs=1e-5
    )
    micro = prepared.micro(torch.arange(2))
    logprobs = torch.log(torch.tensor([1.0, 2.0, 3.0, 4.0])).requires_grad_()
    told = micro_loss(method, micro, logprobs, torch.zeros(4)).measured
    total, count = told["advantage_shapers.telling/ratio"]
    assert float(total) == pytest.approx(10)
    assert int(count) == 4


@dataclass(frozen=True)
class EntropyReward(RewardTerm):
    """Mean entropy of a rollout, which no one knows before the old policy has been asked."""

    weight: float = 1.0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old_entropy"})

    def __call__(self, batch: Batch) -> Tensor:
        return batch.by_rollout(batch.columns["old_entropy"]) / batch.lengths


def test_a_reward_may_wait_for_the_old_policy(grpo: Method) -> None:
    method = replace(grpo, reward_terms={**grpo.reward_terms, "entropy": EntropyReward(weight=10)})
    batch = replace(hand_batch(), columns={})
    assert provisional_score(method, batch).tolist() == [1, 0]
    with pytest.raises(ValueError, match="'old_entropy' must exist"):
        score(method, batch)
    seen = batch.with_columns(old_entropy=torch.tensor([1.0, 3.0, 0.5, 0.5]))
    assert provisional_score(method, seen).tolist() == score(method, seen).tolist() == [21, 5]


def test_facts_follow_their_rollouts(grpo: Method) -> None:
    batch = replace(hand_batch(), facts={"confidence": torch.tensor([0.25, 0.75])})
    table = prepare(grpo, batch).micro(torch.tensor([1])).table
    assert table.facts["confidence"].tolist() == [0.75]
    with pytest.raises(ValueError, match="confidence must have one value per rollout, 2"):
        replace(batch, facts={"confidence": torch.tensor([0.5])})
