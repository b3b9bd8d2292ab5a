"""Laws that every method must keep, as checks for tests; also for methods that live outside this package.

``LAWS`` maps a sentence to a check; each takes a method and raises AssertionError where the sentence is
false. A law that some methods are free to break is checked where all parts declare it (``Guarantee``)::

    @pytest.mark.parametrize("law", LAWS)
    def test_my_method_keeps(law): LAWS[law](my_method)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokensweep.loss.method import MAP_SLOTS, SINGLE_SLOTS, Method, build_method
from tokensweep.loss.objective import Prepared, micro_loss, prepare, score
from tokensweep.loss.slots import AdvantageShaper, Guarantee, Policy
from tokensweep.loss.tables import Batch, View, pack
from tokensweep.problems import Grade, Outcome, Problem
from tokensweep.registry import KIND, components
from tokensweep.rollout import Request, Rollout, SamplingSpec
from tokensweep.train.batch import facts_of
from tokensweep.train.collect import Trial

_LENGTHS = (5, 9, 3, 7, 4, 8, 6, 3, 10, 5, 7, 4)  # tokens of the example's rollouts
_GRADES = (1, 0, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1)  # the third prompt carries no signal
_TEXTS = ("7", "Confidence: 0.9", "7 <uncertain>", "7. Confidence: 30 %", "Wait, 7. Confidence: 1/2")
_MICRO = (0, 2, 1, 3, 0, 2, 1, 3, 0, 2, 1, 3)  # two mini-batches of two micro-batches


def example_batch(*, seed: int = 0) -> Batch:
    """Twelve rollouts of three prompts in float64 with every standard column, drawn from ``seed``."""
    draw = torch.Generator().manual_seed(seed)
    batch = pack(
        [[1, 2]] * 12,
        completions=[[3] * length for length in _LENGTHS],
        prompt_of=[0] * 4 + [1] * 4 + [2] * 4,
        accuracy=_GRADES,
        truncated=[length > 8 for length in _LENGTHS],
        max_tokens=10,
    )
    names = ("old_entropy", "uniform")
    columns = {name: torch.rand(batch.num_tokens, generator=draw, dtype=torch.float64) for name in names}
    for name in ("old_logprobs", "sampler_logprobs", "ref_logprobs"):
        columns[name] = -2 * torch.rand(batch.num_tokens, generator=draw, dtype=torch.float64)
    columns["old_sum_p2c"] = torch.rand(batch.num_tokens, generator=draw, dtype=torch.float64)
    columns["old_hidden"] = torch.randn(batch.num_tokens, 3, generator=draw, dtype=torch.float64)
    columns["ref_entropy"] = torch.rand(batch.num_tokens, generator=draw, dtype=torch.float64)
    micro = torch.tensor(_MICRO)
    grades = batch.accuracy.double()
    facts = {"is_target": torch.tensor([1.0] * 4 + [0.0] * 8)}  # the first prompt's domain
    cut = replace(
        batch, accuracy=grades, rewards=grades, minibatch_of=micro // 2, microbatch_of=micro, facts=facts
    )
    return cut.with_columns(**columns)


def example_trials() -> list[Trial]:
    """The rollouts of :func:`example_batch` as graded, with texts that differ in what parts read."""
    return [
        Trial(
            problem=Problem(
                id=f"p{i // 4}", prompt="3+4=", answer="7", domain="target" if i < 4 else "general"
            ),
            sample=i % 4,
            request=Request(prompt_ids=(1, 2), seed=i, sampling=SamplingSpec(max_tokens=10)),
            rollout=Rollout(
                completion_ids=(3,) * length,
                sampler_logprobs=(-1.0,) * length,
                finish_reason="length" if length > 8 else "stop",
                weights_version=0,
            ),
            grade=Grade(
                outcome=Outcome.correct if right else Outcome.wrong, extracted="7", rule="last_number"
            ),
            text=_TEXTS[i % len(_TEXTS)],
        )
        for i, (length, right) in enumerate(zip(_LENGTHS, _GRADES, strict=True))
    ]


def told_batch(method: Method) -> Batch:
    """:func:`example_batch` with the facts that the method reads in :func:`example_trials`."""
    facts = facts_of(method, example_trials())
    return replace(example_batch(), facts={name: fact.double() for name, fact in facts.items()})


@dataclass(frozen=True)
class Policies:
    """What the current policy says of the tokens of a batch, each [N] nats."""

    logprobs: Tensor
    entropy: Tensor
    ref_divergence: Tensor | None = None  # 0 where a method needs it and nobody says


def near_old(batch: Batch, *, spread: float = 0.3, seed: int = 1) -> Policies:
    """A policy whose log ratios have the standard deviation ``spread``."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch.num_tokens, generator=draw, dtype=torch.float64)
    entropy = torch.rand(batch.num_tokens, generator=draw, dtype=torch.float64)
    divergence = torch.rand(batch.num_tokens, generator=draw, dtype=torch.float64)
    return Policies(batch.columns["old_logprobs"] + spread * noise, entropy, divergence)


def loss_and_gradient(
    method: Method, prepared: Prepared, now: Policies, *, cut: Sequence[Sequence[int]] | None = None
) -> tuple[Tensor, Tensor]:
    """Summed loss of all micro-batches and its gradient by ``now.logprobs`` [N].

    ``cut`` lists the rollouts of each micro-batch; None takes the batch's own.
    """
    batch = prepared.batch
    if cut is None:
        of = batch.microbatch_of.tolist()
        cut = [[i for i, number in enumerate(of) if number == micro] for micro in sorted(set(of))]
    total, gradient = now.logprobs.new_zeros(()), torch.zeros_like(now.logprobs)
    for rollouts in cut:
        micro = prepared.micro(torch.tensor(rollouts))
        logprobs = now.logprobs[micro.rows].clone().requires_grad_()
        entropy = now.entropy[micro.rows].clone().requires_grad_()
        divergence = now.logprobs.new_zeros(()).expand(logprobs.shape)
        if now.ref_divergence is not None:
            divergence = now.ref_divergence[micro.rows]
        loss = micro_loss(method, micro, logprobs, entropy, ref_divergence=divergence).loss
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        assert logprobs.grad is not None, "the loss must stay part of the graph"
        reads = any(part.differentiates_entropy for _, part in method.parts())
        assert reads or entropy.grad is None, "entropy carries a gradient that no component declares"
        total = total + loss.detach()
        gradient[micro.rows] = logprobs.grad
    return total, gradient


def micro_batches_add_up(method: Method) -> None:
    """However a mini-batch is cut, value and gradient are the same (where ``additive`` is declared)."""
    if Guarantee.additive not in method.guarantees():
        return
    prepared = prepare(method, _scored(method))
    now = near_old(prepared.batch)
    whole = [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]
    single = [[rollout] for rollout in range(12)]
    for cut in (single, [[10, 0], [4, 6, 2, 8], [11, 9, 1], [3, 5, 7]]):
        _same(
            loss_and_gradient(method, prepared, now, cut=cut),
            loss_and_gradient(method, prepared, now, cut=whole),
        )


def equal_rewards_give_no_gradient(method: Method) -> None:
    """A group whose rewards are equal teaches nothing (where ``signal_only`` is declared)."""
    if Guarantee.signal_only not in method.guarantees() or method.token_rewards:
        return  # token rewards make the rewards of a group unequal again
    batch = told_batch(method)
    batch = replace(batch, rewards=torch.full_like(batch.rewards, 0.1))
    prepared = prepare(method, batch)
    every = replace(prepared, active=torch.ones_like(prepared.active))
    _, gradient = loss_and_gradient(method, every, near_old(batch))
    assert (gradient == 0).all(), "equal rewards must give a gradient of exactly 0"


def weight_zero_means_absent(method: Method) -> None:
    """A token of weight 0 has gradient 0, and not even a NaN there changes anything else."""
    if method.regularizers:
        return
    prepared = prepare(method, _scored(method))
    out = torch.arange(prepared.batch.num_tokens) % 3 == 0
    masked = replace(prepared, weights=torch.where(out, 0.0, prepared.weights))
    now = near_old(prepared.batch)
    expected = loss_and_gradient(method, masked, now)
    assert (expected[1][out] == 0).all(), "a token of weight 0 must have gradient 0"
    broken = replace(now, logprobs=torch.where(out, torch.nan, now.logprobs))
    _same(loss_and_gradient(method, masked, broken), expected)


def order_and_names_do_not_matter(method: Method) -> None:
    """Rollouts may come in any order and prompts may be numbered in any way."""
    batch = _scored(method)
    now = near_old(batch)
    loss, gradient = loss_and_gradient(method, prepare(method, batch), now)
    order = torch.tensor([7, 2, 11, 0, 5, 9, 1, 10, 3, 8, 6, 4])
    moved, rows = _reordered(batch, order)
    moved = replace(moved, prompt_of=torch.tensor([2, 0, 1])[moved.prompt_of])
    assert now.ref_divergence is not None
    there = Policies(now.logprobs[rows], now.entropy[rows], now.ref_divergence[rows])
    _same(loss_and_gradient(method, prepare(method, moved), there), (loss, gradient[rows]))


def inputs_stay_untouched(method: Method) -> None:
    """No component writes into what it reads, and two calls give the same."""
    batch = _scored(method)
    now = near_old(batch)
    tables = [batch.rewards, batch.accuracy, now.logprobs, now.entropy, *batch.columns.values()]
    before = [table.clone() for table in tables]
    first = loss_and_gradient(method, prepare(method, batch), now)
    second = loss_and_gradient(method, prepare(method, batch), now)
    assert all(torch.equal(a, b) for a, b in zip(tables, before, strict=True)), "an input was changed"
    assert torch.equal(first[0], second[0]), "the same input must give the same loss"
    assert torch.equal(first[1], second[1]), "the same input must give the same gradient"


def extreme_ratios_stay_finite(method: Method) -> None:
    """Log ratios of thousands of nats give finite losses and gradients, in float32 too."""
    batch = _scored(method)
    old = batch.columns["old_logprobs"]
    signs = torch.where(torch.arange(batch.num_tokens) % 2 == 0, 1.0, -1.0)
    narrow = {name: column.float() for name, column in batch.columns.items()}
    for reach in (30.0, 5000.0):
        now = Policies((old + reach * signs).float(), batch.columns["old_entropy"].float())
        prepared = prepare(method, replace(batch, rewards=batch.rewards.float(), columns=narrow))
        for result in loss_and_gradient(method, prepared, now):
            assert result.isfinite().all(), f"log ratios of ±{reach:g} nats must give finite results"


def left_out_rows_change_nothing(method: Method) -> None:
    """Without the rows that are known to carry no gradient, value and gradient are the same."""
    sparse = replace(method, advantage_shapers={**method.advantage_shapers, "sparse": _EveryThirdToken()})
    for variant in (method, sparse):
        prepared = prepare(variant, _scored(method))
        now = near_old(prepared.batch)
        every = replace(prepared, active=torch.ones_like(prepared.active))
        _same(loss_and_gradient(variant, prepared, now), loss_and_gradient(variant, every, now))


class _EveryThirdToken(AdvantageShaper):
    """Advantages that differ within a rollout: most are 0."""

    policy: ClassVar[Policy] = Policy.old

    def __call__(self, view: View) -> Tensor:
        return torch.where(view.completion_position % 3 == 0, view.advantages, 0.0)


def json_round_trip_keeps_the_gradient(method: Method) -> None:
    """A method built from its own JSON gives the same loss and gradient, bit by bit."""
    again = build_method(json.loads(json.dumps(node_of(method))))
    batch = _scored(method)
    now = near_old(batch)
    first = loss_and_gradient(method, prepare(method, batch), now)
    second = loss_and_gradient(again, prepare(again, batch), now)
    assert torch.equal(first[0], second[0]), "the loss must survive a trip through JSON"
    assert torch.equal(first[1], second[1]), "the gradient must survive a trip through JSON"


LAWS: Mapping[str, Callable[[Method], None]] = {
    law.__name__: law
    for law in (
        micro_batches_add_up,
        equal_rewards_give_no_gradient,
        weight_zero_means_absent,
        order_and_names_do_not_matter,
        inputs_stay_untouched,
        extreme_ratios_stay_finite,
        left_out_rows_change_nothing,
        json_round_trip_keeps_the_gradient,
    )
}


def node_of(method: Method) -> dict[str, Any]:
    """The ``method`` node that :func:`tokensweep.loss.method.build_method` makes this method from."""
    node: dict[str, Any] = {"name": method.name, "updates_per_batch": method.updates_per_batch}
    node |= {slot: _component_node(f"method/{slot}", getattr(method, slot)) for slot in SINGLE_SLOTS}
    for slot in MAP_SLOTS:
        parts = getattr(method, slot)
        node[slot] = {name: _component_node(f"method/{slot}", part) for name, part in parts.items()}
    node["schedules"] = {name: dataclasses.asdict(schedule) for name, schedule in method.schedules.items()}
    return node


def _component_node(group: str, part: Any) -> dict[str, Any]:
    names = [name for name, cls in components(group).items() if cls is type(part)]
    assert names, f"{type(part).__qualname__} must be registered with @component({group!r}, ...)"
    return {KIND: f"{group}/{names[0]}", **dataclasses.asdict(part)}


def _scored(method: Method) -> Batch:
    batch = told_batch(method)
    return replace(batch, rewards=score(method, batch))


def _reordered(batch: Batch, order: Tensor) -> tuple[Batch, Tensor]:
    """The batch with its rollouts in another order, and the old trained row of each new one [N]."""
    of_rollout = {
        name: getattr(batch, name)[order]
        for name in (
            "prompt_of",
            "accuracy",
            "rewards",
            "lengths",
            "truncated",
            "minibatch_of",
            "microbatch_of",
        )
    }
    place = order.argsort()
    tokens = place[batch.sequence_of].argsort(stable=True)
    rows = place[batch.rollout_of].argsort(stable=True)
    is_trained = torch.zeros_like(batch.token_ids, dtype=torch.bool)
    is_trained[batch.trained] = True
    moved = replace(
        batch,
        token_ids=batch.token_ids[tokens],
        sequence_of=place[batch.sequence_of[tokens]],
        position=batch.position[tokens],
        trained=is_trained[tokens].nonzero().squeeze(1),
        columns={name: column[rows] for name, column in batch.columns.items()},
        facts={name: fact[order] for name, fact in batch.facts.items()},
        **of_rollout,
    )
    return moved, rows


def _same(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
