"""What a method is: components that fill slots, and the numbers that move with the step.

:func:`build_method` makes a :class:`Method` from the frozen ``method`` node of a run; :func:`at_step` gives
the method of the day where schedules drive its fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from tokensweep.config import NEUTRAL_SLOTS
from tokensweep.loss.schedule import Schedule, build_schedule, put
from tokensweep.loss.slots import (
    Advantage,
    AdvantageShaper,
    Aggregate,
    Allocation,
    Guarantee,
    Memory,
    Minibatch,
    Part,
    Policy,
    Ratio,
    Regularizer,
    RewardTerm,
    Sampling,
    Source,
    Surrogate,
    TokenReward,
    TokenWeight,
)
from tokensweep.loss.tables import Batch
from tokensweep.registry import build

if TYPE_CHECKING:
    from tokensweep.loss.probe import Probe


@dataclass(frozen=True, kw_only=True)
class Method:
    """Components by slot. Raises ValueError where they don't go together."""

    name: str
    updates_per_batch: int  # optimiser steps between two weight syncs
    allocation: Allocation
    sampling: Sampling
    reward_terms: Mapping[str, RewardTerm]
    advantage: Advantage
    minibatch: Minibatch
    ratio: Ratio
    surrogate: Surrogate
    aggregate: Aggregate
    token_rewards: Mapping[str, TokenReward] = field(default_factory=dict)
    advantage_shapers: Mapping[str, AdvantageShaper] = field(default_factory=dict)
    token_weights: Mapping[str, TokenWeight] = field(default_factory=dict)
    regularizers: Mapping[str, Regularizer] = field(default_factory=dict)
    probes: Mapping[str, Probe] = field(default_factory=dict)
    source: Source = field(default_factory=lambda: build(NEUTRAL_SLOTS["source"]))
    schedules: Mapping[str, Schedule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.updates_per_batch < 1:
            raise ValueError(f"updates_per_batch must be at least 1, got {self.updates_per_batch}")
        if not self.reward_terms:
            raise ValueError(
                "a method must have at least one reward term, got none: add reward_terms.verifier"
            )
        for _, part in self.parts():
            part.check(self)

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Every component with its key below ``method``."""
        for slot in SINGLE_SLOTS:
            yield slot, getattr(self, slot)
        for slot in MAP_SLOTS:
            for name, part in getattr(self, slot).items():
                yield f"{slot}.{name}", part

    def needs(self) -> frozenset[str]:
        """Union of what the components need for the update, ``old_logprobs`` always among it."""
        needs = frozenset({"old_logprobs"}).union(*(part.needs for _, part in self.parts()))
        return needs - self.needs_after()

    def needs_after(self) -> frozenset[str]:
        """What the probes need of the policy after the update, as ``new_<statistic>``."""
        needs = frozenset[str]().union(*(probe.needs for probe in self.probes.values()))
        return frozenset(name for name in needs if name.startswith("new_"))

    def shapers_of(self, policy: Policy) -> list[AdvantageShaper]:
        """The advantage shapers that look at this policy, in order."""
        return [shaper for shaper in self.advantage_shapers.values() if shaper.policy is policy]

    def token_weights_of(self, policy: Policy) -> list[TokenWeight]:
        """The token weights that look at this policy."""
        return [weight for weight in self.token_weights.values() if weight.policy is policy]

    def guarantees(self) -> frozenset[Guarantee]:
        """What the parts that act inside a micro-batch guarantee together."""
        parts: list[Part] = [self.ratio, self.surrogate, self.aggregate, *self.regularizers.values()]
        parts += [*self.token_weights_of(Policy.current), *self.shapers_of(Policy.current)]
        return parts[0].guarantees.intersection(*(part.guarantees for part in parts[1:]))


SINGLE_SLOTS = (
    "source",
    "allocation",
    "sampling",
    "advantage",
    "minibatch",
    "ratio",
    "surrogate",
    "aggregate",
)
MAP_SLOTS = ("reward_terms", "token_rewards", "advantage_shapers", "token_weights", "regularizers", "probes")
_LABELS = ("paper", "evidence", "applies_to")  # for people; the method does not read them


def build_method(node: Mapping[str, Any]) -> Method:
    """The method that a frozen ``method`` node describes.

    Raises ValueError for an unknown key or component, a value out of range, parts that don't go together,
    and a schedule whose path leads nowhere or whose values leave the range of the field.
    """
    known = {*(f.name for f in fields(Method)), *_LABELS}
    if unknown := sorted(set(node) - known):
        raise ValueError(f"a method must have only the keys {sorted(known)}, got {', '.join(unknown)} too")
    filled = {**NEUTRAL_SLOTS, **node}
    single: dict[str, Any] = {slot: build(filled[slot]) for slot in SINGLE_SLOTS}
    maps: dict[str, Any] = {
        slot: {name: build(part) for name, part in node.get(slot, {}).items()} for slot in MAP_SLOTS
    }
    schedules = {name: build_schedule(entry) for name, entry in node.get("schedules", {}).items()}
    updates = node["updates_per_batch"]
    method = Method(name=node["name"], updates_per_batch=updates, schedules=schedules, **single, **maps)
    for schedule in schedules.values():
        at_step(at_step(method, 0), schedule.steps)
    return method


def at_step(method: Method, step: int) -> Method:
    """The method with every scheduled field at its value for optimiser batch ``step`` (from 0).

    Raises ValueError for a path that leads to no field, or a value that its component refuses.
    """
    for schedule in method.schedules.values():
        method = put(method, schedule.path.split("."), value=schedule.value(step), path=schedule.path)
    return method


def adapt(method: Method, memories: Mapping[str, Memory], batch: Batch) -> tuple[Method, dict[str, Memory]]:
    """The method as it acts on ``batch`` where components remember, and their memories for the next batch.

    ``memories`` holds those of earlier batches by the key of the component below ``method``; a component
    that is not among them starts with its own ``init()``.
    """
    after: dict[str, Memory] = {}
    for where, part in list(method.parts()):
        memory = memories.get(where) or part.init()
        if not memory:
            continue
        acting, after[where] = part.adapt(memory, batch)
        method = put(method, where.split("."), value=acting, path=where)
    return method, after


def inert_keys(method: Method) -> dict[str, str]:
    """Keys below ``method`` that have no effect as the method stands, each with the reason."""
    return {
        f"{where}.{key}": reason
        for where, part in method.parts()
        for key, reason in part.inert(updates_per_batch=method.updates_per_batch).items()
    }
