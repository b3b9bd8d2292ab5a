"""The one interface of all rollout engines.

Randomness comes with the request: one uniform number per position from a stream that ``seed`` alone decides,
so a request gets the same completion in any batch (up to float noise) and after any interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # importing transformers takes seconds
    from tokensweep.models.policy import Policy
    from tokensweep.train.ranks import Ranks

FinishReason = Literal["stop", "length"]
Progress = Callable[[int], None]  # completions that have just ended
Rules = tuple[tuple[str, float], ...]  # names and values that engines or their logits processors read


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """How a completion is drawn. Raises ValueError for values out of range."""

    temperature: float = 1.0  # 0: the most likely token
    top_p: float = 1.0  # smallest set of tokens with at least this mass
    top_k: int = 0  # this many most likely tokens; 0: all
    max_tokens: int  # end token included
    stop: tuple[str, ...] = ()  # texts that end a completion; they stay part of it

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative (0: all tokens), got {self.top_k}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if "" in self.stop:
            raise ValueError("stop must not hold an empty text: it would end every completion at once")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One completion to be drawn."""

    prompt_ids: tuple[int, ...]
    seed: int
    sampling: SamplingSpec
    rules: Rules = ()  # of a sampling rule (see rollout.rules), or of a user's logits processors

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("prompt_ids must hold at least one token")


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One completion as the engine drew it."""

    completion_ids: tuple[int, ...]  # the end token included where it was drawn
    sampler_logprobs: tuple[
        float, ...
    ]  # under the distribution drawn from; at temperature 0 under the model's own
    finish_reason: FinishReason
    weights_version: int


@runtime_checkable
class Engine(Protocol):
    """Draws completions from the weights it was given last."""

    def load(self, policy: Policy, *, version: int) -> None:
        """Draw from these weights from now on and label completions with ``version``."""
        ...

    def generate(self, requests: Sequence[Request], *, progress: Progress | None = None) -> list[Rollout]:
        """One rollout per request, in order. Raises RuntimeError before the first ``load``."""
        ...

    def rest(self) -> None:
        """Leave the device's memory to the trainer until the next ``load`` or ``generate``."""
        ...

    def close(self) -> None:
        """Give everything back that was started or reserved."""
        ...


@runtime_checkable
class Demanding(Protocol):
    """An engine that not every machine can run."""

    def check_machine(self, *, device: str) -> None:
        """Raise ValueError, saying what to do, where it can not run with ``compute.device``."""
        ...


@runtime_checkable
class Joining(Protocol):
    """An engine that ranks may share, so that one of them must act for all."""

    def join(self, ranks: Ranks) -> None:
        """Learn, before the first ``load``, who takes part; without it the engine is of one process."""
        ...


@runtime_checkable
class Ruled(Protocol):
    """An engine that can draw by sampling rules."""

    def expect_rules(self) -> None:
        """Learn, before the first ``load``, that requests may have rules."""
        ...


def uniforms(seed: int, count: int) -> NDArray[np.float64]:
    """The first ``count`` numbers in [0, 1) of the stream of ``seed``: asking for more only appends."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)
