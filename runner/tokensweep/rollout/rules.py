"""Sampling rules: what is done to the logits before temperature, top-k and top-p, the same in every engine.

A rule is a component of the group ``eval/rule``, so an evaluation can be drawn by it; a method's ``sampling``
slot says which rollouts of training are. A request carries its rule as names and numbers, see
:func:`pairs_of`, so that it reaches engines in other processes. Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from tokensweep.registry import KIND, build, component, components
from tokensweep.rollout.protocol import Engine, Ruled, Rules, SamplingSpec

GROUP = "eval/rule"
_OURS = "rule/"  # what the names of our pairs begin with; all others are for a user's own logits processors


class Rule(Protocol):
    """(logits [B, V] float32, done [B] int64) -> logits [B, V]; pure, and a row depends on itself alone.

    ``done`` counts the tokens that each row's completion has so far. Fields are numbers.
    """

    @abstractmethod
    def __call__(self, logits: Tensor, done: Tensor) -> Tensor: ...

    @abstractmethod
    def check(self, sampling: SamplingSpec) -> None:
        """Raise ValueError where the rule does not go with what comes after it."""
        ...


@component(GROUP, "cuts")
@dataclass(frozen=True)
class Cuts(Rule):
    """Uniform over the likely tokens: logits 0 for ``S = {v in top K: P(v) >= delta}``, -inf for all others.

    P is the full softmax at temperature 1. Where no token reaches ``delta``, S is the whole top K. The first
    ``warm_up`` tokens are drawn as without the rule.
    Source: CUTS, arXiv:2604.18493, read in two notes and a re-implementation: K 5, delta 0.03, 5 tokens of
    warm-up. They differ in what an empty S becomes, the top K here or the likeliest token, and in ``>=`` or
    ``>``. Departure: -inf where the re-implementation has the least number of half precision, as logits are
    float32 here.
    """

    delta: float = 0.03
    top_k: int = 5  # K
    warm_up: int = 5  # T_warm, tokens

    def __post_init__(self) -> None:
        if not 0 <= self.delta <= 1:
            raise ValueError(f"delta must be in [0, 1], it is a probability, got {self.delta:g}")
        if self.top_k < 1 or self.warm_up < 0:
            raise ValueError(
                f"top_k must be at least 1 and warm_up at least 0, got {self.top_k} and {self.warm_up}"
            )

    def __call__(self, logits: Tensor, done: Tensor) -> Tensor:
        top, token = logits.softmax(-1).topk(min(self.top_k, logits.shape[-1]), dim=-1)
        likely = top >= self.delta
        survives = likely | ~likely.any(-1, keepdim=True)
        flat = torch.where(survives, 0.0, -torch.inf).to(logits.dtype)
        cut = torch.full_like(logits, -torch.inf).scatter(-1, token, flat)
        return torch.where((done < self.warm_up)[:, None], logits, cut)

    def check(self, sampling: SamplingSpec) -> None:
        """Nothing else may choose among the survivors."""
        if sampling.temperature == 0 or sampling.top_p != 1 or sampling.top_k != 0:
            raise ValueError(
                "CUTS draws uniformly from its survivors, so temperature must be above 0, top_p 1 and top_k "
                f"0, got {sampling.temperature:g}, {sampling.top_p:g} and {sampling.top_k}"
            )


@component(GROUP, "two_temperatures")
@dataclass(frozen=True)
class TwoTemperatures(Rule):
    """Logits divided by ``high`` where the next token's entropy is above ``threshold``, else by ``low``.

    The entropy is that of the full softmax at temperature 1, in nats.
    Source: the decoding probe of "Beyond the 80/20 rule", arXiv:2506.01939, for evaluation alone: 0.672 nats
    is the 80th percentile of Qwen3-8B in thinking mode. Departure: none known; where top-p or top-k are
    given, they come after the temperature, as without the rule.
    """

    high: float = 1.0  # T_high, of forking tokens
    low: float = 1.0  # T_low, of all others
    threshold: float = 0.672  # nats

    def __post_init__(self) -> None:
        if self.high <= 0 or self.low <= 0:
            raise ValueError(f"high and low must be above 0, got {self.high:g} and {self.low:g}")
        if self.threshold < 0:
            raise ValueError(f"threshold must be at least 0 nats, got {self.threshold:g}")

    def __call__(self, logits: Tensor, done: Tensor) -> Tensor:
        entropy = torch.special.entr(logits.softmax(-1)).sum(-1)
        temperature = torch.where(entropy > self.threshold, self.high, self.low).to(logits.dtype)
        return logits / temperature[:, None]

    def check(self, sampling: SamplingSpec) -> None:
        """A third temperature would come on top."""
        if sampling.temperature != 1:
            raise ValueError(
                f"two_temperatures has its own, so temperature must be 1, got {sampling.temperature:g}: "
                "change rule.high and rule.low"
            )


def check_rule(rule: Rule, sampling: SamplingSpec, *, engine: Engine, where: str) -> None:
    """Raise ValueError, naming the key ``where`` the rule stands, for what it does not go with."""
    if not isinstance(engine, Ruled):
        raise ValueError(
            f"{where} draws by a rule, and {type(engine).__name__} follows none: "
            "take rollout=torch, vllm or hf"
        )
    try:
        rule.check(sampling)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def announce(rules: Iterable[Rule | None], engine: Engine) -> None:
    """Tell an engine before its first ``load`` that requests will have rules, if any of these is one."""
    if any(rule is not None for rule in rules):
        assert isinstance(engine, Ruled), "refused when it was planned"
        engine.expect_rules()


def pairs_of(rule: Rule | None) -> Rules:
    """The rule as a request carries it; nothing for None."""
    if rule is None:
        return ()
    (name,) = (name for name, cls in components(GROUP).items() if cls is type(rule))
    fields = asdict(rule)  # type: ignore[call-overload]  # every component is a dataclass
    return tuple((f"{_OURS}{name}/{field}", float(value)) for field, value in fields.items())


@lru_cache(maxsize=64)
def rule_of(pairs: Rules) -> Rule | None:
    """What :func:`pairs_of` was given; None where no pair is of a rule.

    Raises ValueError for an unknown rule, a field that it does not have, and two rules at once.
    """
    ours: dict[str, dict[str, float]] = {}
    for name, value in pairs:
        if name.startswith(_OURS):
            kind, _, field = name.removeprefix(_OURS).partition("/")
            ours.setdefault(kind, {})[field] = int(value) if value == int(value) else value
    if not ours:
        return None
    known = components(GROUP)
    if len(ours) > 1 or not ours.keys() <= known.keys():
        raise ValueError(
            f"a request must have one of the rules {sorted(known)}, got {', '.join(sorted(ours))}"
        )
    ((kind, fields),) = ours.items()
    rule: Rule = build({KIND: f"{GROUP}/{kind}", **fields})
    return rule


def only_rule_of(pairs: Rules, *, engine: str) -> Rule | None:
    """The rule of a request for an engine without logits processors, which refuses all other pairs."""
    if foreign := sorted(name for name, _ in pairs if not name.startswith(_OURS)):
        raise ValueError(
            f"rollout={engine} has no logits processors, so it can not follow {', '.join(foreign)}: "
            "take rollout=vllm"
        )
    return rule_of(pairs)
