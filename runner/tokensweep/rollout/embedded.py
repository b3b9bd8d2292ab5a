"""The embedded engine: the model's own forward around a static key-value cache.

It runs in the trainer's process on the trainer's weights, so there is nothing to copy after an update.
Requests are drawn in waves: every distinct prompt of a wave is prefilled once and its cache repeated for its
requests; rows that have ended are dropped from the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from tokensweep.registry import component
from tokensweep.rollout.needs import Drawing, Share, in_the_trainer, reading
from tokensweep.rollout.protocol import Progress, Request, Rollout, Rules, SamplingSpec

if TYPE_CHECKING:
    from tokensweep.models.policy import Policy


@component("rollout", "torch")
@dataclass(eq=False)
class TorchEngine:
    """Draws rollouts from a policy in this process; a wave takes at most ``max_batch_tokens`` cache slots."""

    max_batch_tokens: int = 65536  # rows times (prompt and completion limit); one row always fits

    def __post_init__(self) -> None:
        if self.max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens must be at least 1, got {self.max_batch_tokens}")
        self._policy: Policy | None = None
        self._version = 0

    def load(self, policy: Policy, *, version: int) -> None:
        """Draw from the weights ``policy`` has at each call of ``generate``, labelled ``version``."""
        self._policy, self._version = policy, version

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], *, progress: Progress | None = None) -> list[Rollout]:
        """One rollout per request, in order. Raises RuntimeError before the first ``load``."""
        if self._policy is None:
            raise RuntimeError("the engine has no weights: call load(policy, version=...) first")
        from tokensweep.rollout.wave import Wave  # imports transformers, which takes seconds

        rollouts: list[Rollout | None] = [None] * len(requests)
        for wave in _waves(requests, budget=self.max_batch_tokens):
            drawn = Wave([requests[i] for i in wave], self._policy).run(progress)
            for index, (ids, logprobs, reason) in zip(wave, drawn, strict=True):
                rollouts[index] = Rollout(
                    completion_ids=ids,
                    sampler_logprobs=logprobs,
                    finish_reason=reason,
                    weights_version=self._version,
                )
        return cast(list[Rollout], rollouts)

    def expect_rules(self) -> None:
        """Nothing to prepare."""

    def rest(self) -> None:
        """Nothing is reserved."""

    def close(self) -> None:
        """Nothing was started."""

    def memory(self, share: Share) -> Drawing:
        """Waves whose cache is moved when enough rows have ended; see :mod:`tokensweep.rollout.wave`."""
        from tokensweep.rollout.wave import COMPACT_BELOW

        rows = min(share.rollouts, max(1, self.max_batch_tokens // share.sequence))
        parts = in_the_trainer(share, rows=rows)
        return Drawing(
            rows=rows,
            parts={**parts, "cache while moved": COMPACT_BELOW * parts["key-value cache"]},
            weight_bytes=reading(share),
            setting="max_batch_tokens",
            least=share.sequence,
        )


def _waves(requests: Sequence[Request], *, budget: int) -> Iterator[list[int]]:
    """Request indices in waves of one sampling spec and rule, and of similar prompt lengths.

    Each wave is within the budget.
    """

    def drawing(index: int) -> tuple[SamplingSpec, Rules]:
        return requests[index].sampling, requests[index].rules

    ranks = {each: rank for rank, each in enumerate(dict.fromkeys(map(drawing, range(len(requests)))))}

    def key(index: int) -> tuple[int, int, tuple[int, ...]]:
        request = requests[index]
        return ranks[drawing(index)], -len(request.prompt_ids), request.prompt_ids

    for _, members in itertools.groupby(sorted(range(len(requests)), key=key), key=drawing):
        waiting = list(members)
        while waiting:
            longest = requests[waiting[0]]  # sorted: no later prompt of the wave is longer
            slots = len(longest.prompt_ids) + longest.sampling.max_tokens
            rows = max(1, budget // slots)
            yield waiting[:rows]
            waiting = waiting[rows:]
