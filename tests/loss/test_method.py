"""Methods: building, schedules, needs and keys without effect."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from torch import Tensor

from tokensweep.loss.laws import example_batch, node_of
from tokensweep.loss.method import Method, at_step, build_method, inert_keys
from tokensweep.loss.objective import prepare
from tokensweep.loss.schedule import Schedule, Shape
from tokensweep.loss.slots import TOKEN_LOCAL, Guarantee, Regularizer, TokenWeight
from tokensweep.loss.tables import View
from tokensweep.methods.forking_tokens import EntropyWeight, Side
from tokensweep.methods.grpo import PPOClip
from tokensweep.methods.holderpo import HolderRatio


@dataclass(frozen=True)
class ReferenceKL(Regularizer):
    """A regulariser as one would write it, for these tests only."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"ref_logprobs"})

    def __call__(self, view: View) -> Tensor:
        return (view.logprobs - view.columns["ref_logprobs"]).sum() / view.totals.tokens


def test_a_method_survives_its_own_node(grpo: Method) -> None:
    method = replace(
        grpo,
        ratio=HolderRatio(p=2.0),
        token_weights={"entropy": EntropyWeight(side=Side.low)},
        schedules={"p": Schedule(path="ratio.p", start=2, end=-2, steps=10, shape=Shape.cosine)},
    )
    assert build_method(node_of(method)) == method


def test_labels_are_for_people(grpo: Method) -> None:
    assert build_method({**node_of(grpo), "paper": "arXiv:1", "evidence": "code"}) == grpo


def test_an_unknown_key_is_refused(grpo: Method) -> None:
    with pytest.raises(ValueError, match="got colour too"):
        build_method({**node_of(grpo), "colour": "red"})


def test_a_method_without_reward_is_refused(grpo: Method) -> None:
    with pytest.raises(ValueError, match="at least one reward term, got none"):
        replace(grpo, reward_terms={})


def test_a_method_without_updates_is_refused(grpo: Method) -> None:
    with pytest.raises(ValueError, match="updates_per_batch must be at least 1, got 0"):
        replace(grpo, updates_per_batch=0)


def test_needs_are_the_union_over_the_components(grpo: Method) -> None:
    assert grpo.needs() == {"old_logprobs"}
    method = replace(grpo, token_weights={"e": EntropyWeight()}, regularizers={"kl": ReferenceKL()})
    assert method.needs() == {"old_logprobs", "old_entropy", "ref_logprobs"}


def test_guarantees_are_those_of_all_parts(grpo: Method) -> None:
    assert grpo.guarantees() == TOKEN_LOCAL
    assert Guarantee.token_local not in replace(grpo, ratio=HolderRatio()).guarantees()
    assert replace(grpo, regularizers={"kl": ReferenceKL()}).guarantees() == frozenset()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # at u = 0, 1/4, 1/2, 1 from 2 to -2: start - 4 * way
        (Shape.constant, [2, 2, 2, 2]),
        (Shape.linear, [2, 1, 0, -2]),
        (Shape.cosine, [2, 2 - 2 * (1 - 0.5**0.5), 0, -2]),  # cos(pi/4) = sqrt(1/2)
        (Shape.power, [2, 2 - 4 / 16, 1, -2]),  # u squared
        (Shape.cubic, [2, 0.25, 0, -2]),  # way at 1/4: (1 - 1/8) / 2 = 7/16
    ],
)
def test_schedules_have_the_shapes_of_the_paper(shape: Shape, expected: list[float]) -> None:
    # HolderPO's appendix lists them for p; rising forms swap start and end
    falling = Schedule(path="ratio.p", start=2, end=-2, steps=100, shape=shape, power=2)
    assert [falling.value(step) for step in (0, 25, 50, 100)] == pytest.approx(expected)
    rising = replace(falling, start=-2, end=2)
    assert [rising.value(step) for step in (0, 25, 50, 100)] == pytest.approx([-x for x in expected])


def test_a_schedule_stays_at_its_end(grpo: Method) -> None:
    schedule = Schedule(path="surrogate.high", start=0.2, end=0.4, steps=10)
    assert schedule.value(10) == schedule.value(1000) == 0.4


def test_at_step_writes_fields_of_slots_and_of_map_entries(grpo: Method) -> None:
    method = replace(
        grpo,
        token_weights={"entropy": EntropyWeight()},
        schedules={
            "a": Schedule(path="surrogate.high", start=0.25, end=0.75, steps=10),
            "b": Schedule(path="token_weights.entropy.fraction", start=1.0, end=0.25, steps=10),
        },
    )
    day = at_step(method, 5)
    assert day.surrogate == PPOClip(high=0.5)
    assert day.token_weights["entropy"] == EntropyWeight(fraction=0.625)
    assert method.surrogate == PPOClip()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "ratio.q"}, "path must lead to a field of the method, got 'ratio.q': no 'q' there"),
        ({"path": "token_weights.x.fraction"}, "no 'x' there"),
        ({"path": "surrogate.low", "end": 2.0}, r"low must be in \[0, 1\]"),
        ({"path": "surrogate.low", "shape": "zigzag"}, "shape must be one of constant, linear.*got 'zigzag'"),
        ({"path": "surrogate.low", "steps": 0}, "steps must be at least 1 and power above 0, got 0 and 1"),
        ({"path": "surrogate.low", "power": 0.0}, "steps must be at least 1 and power above 0, got 5 and 0"),
    ],
)
def test_a_schedule_that_cannot_run_is_refused_before_it_starts(
    entry: dict[str, Any], message: str, grpo: Method
) -> None:
    schedule = {"start": 0.1, "end": 0.2, "steps": 5, **entry}
    with pytest.raises(ValueError, match=message):
        build_method({**node_of(grpo), "schedules": {"s": schedule}})


def test_the_clip_is_inert_with_one_update(grpo: Method) -> None:
    assert inert_keys(grpo) == {}
    reasons = inert_keys(replace(grpo, updates_per_batch=1))
    assert set(reasons) == {"surrogate.low", "surrogate.high"}
    assert "set method.updates_per_batch to 2 or more" in reasons["surrogate.low"]


def test_a_component_without_what_its_slot_asks_for_cannot_be_made() -> None:
    @dataclass(frozen=True)
    class Weightless(TokenWeight):
        below: float = 0.1

    with pytest.raises(TypeError, match="abstract"):
        Weightless()  # type: ignore[abstract]  # that is the point


def test_a_token_weight_that_does_not_say_whose_policy_it_reads_reads_the_old_one(grpo: Method) -> None:
    @dataclass(frozen=True)
    class Later(TokenWeight):
        def __call__(self, view: View) -> Tensor:
            return (view.completion_position > 0).double()

    method = replace(grpo, token_weights={"later": Later()})
    weights = prepare(method, example_batch()).weights
    assert weights.sum() == 71 - 12  # 71 tokens without the first of each of 12 rollouts
