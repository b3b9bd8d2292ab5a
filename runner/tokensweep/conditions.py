"""What must hold where a method applies: the words of ``applies_to`` in its preset, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokensweep.registry import KIND
from tokensweep.verifier import MARKER

Frozen = Mapping[str, Any]


@dataclass(frozen=True)
class Condition:
    """What it says to people, and whether a frozen config fulfils it as far as can be seen."""

    text: str
    holds: Callable[[Frozen], bool]


def _updates(config: Frozen) -> int:
    return int(config["method"]["updates_per_batch"])


def _asks_for_confidence(config: Frozen) -> bool:
    """Whether the prompt asks for a statement, or the problems come with a model that makes them."""
    told = " ".join(str(value) for value in (config.get("prompt") or {}).values()).lower()
    stated: bool = config["data"][KIND] == "data/ops_stated"
    return stated or "confidence" in told or MARKER in told


def _has_rules(config: Frozen) -> bool:
    return bool(config["rollout"][KIND] != "rollout/fake")


CONDITIONS: Mapping[str, Condition] = {
    "any": Condition("no condition", lambda _: True),
    "off_policy": Condition(
        "at least two updates per optimiser batch: at one its numbers do nothing",
        lambda config: _updates(config) > 1,
    ),
    "on_policy": Condition("one update per optimiser batch", lambda config: _updates(config) == 1),
    "lora": Condition(
        "made for adapters (trainable=lora)", lambda config: config["trainable"][KIND] == "trainable/lora"
    ),
    "two_domains": Condition(
        "problems of two domains (a target and a general one)",
        lambda config: config["data"][KIND] == "data/mixed",
    ),
    "stated_confidence": Condition(
        "completions that state a confidence, or use a marker, as a prompt or a warm start makes them "
        "(prompt=verbal_confidence, uncertain_marker or stated_uncertainty; data=ops_stated)",
        _asks_for_confidence,
    ),
    "sampling_rules": Condition("an engine that draws by rules: rollout=torch, vllm or hf", _has_rules),
}


def unmet(config: Frozen) -> Iterator[str]:
    """What the method of a frozen config applies to and the run has not, a sentence each."""
    method = config["method"]
    for name in method.get("applies_to", ()):
        if name in CONDITIONS and not CONDITIONS[name].holds(config):
            yield f"{method['name']} applies to {name}, which this run is not: {CONDITIONS[name].text}"
