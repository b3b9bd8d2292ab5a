"""An engine without a forward pass, for runs that test everything around the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokensweep.registry import component
from tokensweep.rollout.needs import Drawing, Share
from tokensweep.rollout.protocol import Progress, Request, Rollout

if TYPE_CHECKING:
    from tokensweep.models.policy import Policy


@component("rollout", "fake")
@dataclass(eq=False)
class FakeEngine:
    """Answers every request with one of ``texts``, chosen by the request's seed alone."""

    texts: tuple[str, ...] = ("1", "2")

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("texts must hold at least one text to answer with")
        self._policy: Policy | None = None
        self._version = 0

    def load(self, policy: Policy, *, version: int) -> None:
        """Use the policy's tokenizer; its weights are never read."""
        self._policy, self._version = policy, version

    def generate(self, requests: Sequence[Request], *, progress: Progress | None = None) -> list[Rollout]:
        """One rollout per request, in order. Raises RuntimeError before the first ``load``."""
        if self._policy is None:
            raise RuntimeError("the engine has no weights: call load(policy, version=...) first")
        if any(request.rules for request in requests):
            raise ValueError("rollout=fake draws no tokens, so it follows no rules: take rollout=torch")
        rollouts = [self._rollout(self._policy, request) for request in requests]
        if progress is not None:
            progress(len(requests))
        return rollouts

    def rest(self) -> None:
        """Nothing is reserved."""

    def close(self) -> None:
        """Nothing was started."""

    def memory(self, share: Share) -> Drawing:
        """Nothing: there is no model."""
        return Drawing()

    def _rollout(self, policy: Policy, request: Request) -> Rollout:
        """The chosen text; its whole log-probability is booked on the first token."""
        text = self.texts[request.seed % len(self.texts)]
        full = (*policy.tokenizer.encode(text, add_special_tokens=False), policy.eos_ids[0])
        ids = full[: request.sampling.max_tokens]
        return Rollout(
            completion_ids=ids,
            sampler_logprobs=(-math.log(len(self.texts)), *([0.0] * (len(ids) - 1))),
            finish_reason="stop" if len(ids) == len(full) else "length",
            weights_version=self._version,
        )
