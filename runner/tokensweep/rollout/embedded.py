"""The embedded engine: the model's own forward around a static key-value cache.

It runs in the trainer's process on the trainer's weights, so there is nothing to copy after an update. Requests
are drawn in waves: every distinct prompt of a wave is prefilled once and its cache repeated for its requests;
rows that have ended are dropped from the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokensweep.models.policy import Policy
from tokensweep.registry import component
from tokensweep.rollout.cache import Decoding, Prefill, SlotCache
from tokensweep.rollout.protocol import FinishReason, Progress, Request, Rollout, SamplingSpec, uniforms
from tokensweep.rollout.sampling import draw, sampler_logprobs
from tokensweep.rollout.stops import StopTexts

_COMPACT_BELOW = 0.75  # share of rows still running below which moving the cache pays


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
        rollouts: list[Rollout | None] = [None] * len(requests)
        for wave in _waves(requests, budget=self.max_batch_tokens):
            drawn = _Wave([requests[i] for i in wave], self._policy).run(progress)
            for index, (ids, logprobs, reason) in zip(wave, drawn, strict=True):
                rollouts[index] = Rollout(
                    completion_ids=ids,
                    sampler_logprobs=logprobs,
                    finish_reason=reason,
                    weights_version=self._version,
                )
        return cast(list[Rollout], rollouts)


def _waves(requests: Sequence[Request], *, budget: int) -> Iterator[list[int]]:
    """Request indices in waves of one sampling spec and similar prompt lengths, each within the budget."""
    specs = {spec: rank for rank, spec in enumerate(dict.fromkeys(r.sampling for r in requests))}

    def key(index: int) -> tuple[int, int, tuple[int, ...]]:
        request = requests[index]
        return specs[request.sampling], -len(request.prompt_ids), request.prompt_ids

    for _, members in itertools.groupby(
        sorted(range(len(requests)), key=key), key=lambda i: requests[i].sampling
    ):
        waiting = list(members)
        while waiting:
            longest = requests[waiting[0]]  # sorted: no later prompt of the wave is longer
            slots = len(longest.prompt_ids) + longest.sampling.max_tokens
            rows = max(1, budget // slots)
            yield waiting[:rows]
            waiting = waiting[rows:]


class _Wave:
    """One batch on its way from prompts to completions. R requests, B rows still in the batch."""

    def __init__(self, requests: list[Request], policy: Policy) -> None:
        device = policy.device
        self.policy = policy
        self.sampling: SamplingSpec = requests[0].sampling
        self.stops = StopTexts(self.sampling.stop, policy.decode)
        self.eos = torch.tensor(policy.eos_ids, device=device)
        self.rows = torch.arange(len(requests), device=device)  # [B] request of every row
        self.running = torch.ones(len(requests), dtype=torch.bool, device=device)  # [B]
        limit = self.sampling.max_tokens
        self.tokens = torch.zeros(limit, len(requests), dtype=torch.int64, device=device)  # [T, R]
        self.logprobs = torch.zeros(limit, len(requests), device=device)  # [T, R]
        self.lengths = torch.full((len(requests),), limit, device=device)  # [R]
        self.uniforms = _uniforms(requests).to(device)  # [T, R]
        self.logits = self._prefill(requests)  # [B, V]

    def run(
        self, progress: Progress | None
    ) -> Iterator[tuple[tuple[int, ...], tuple[float, ...], FinishReason]]:
        """Draw until every row has ended, then give ids, logprobs and finish reason in request order."""
        left = len(self.rows)
        for step in range(self.sampling.max_tokens):
            token = self._draw(step)
            now = int(self.running.sum())
            if progress is not None and now < left:
                progress(left - now)
            left = now
            if left == 0 or step + 1 == self.sampling.max_tokens:
                break
            if left < _COMPACT_BELOW * len(self.rows):
                token = self._compact(token)
            self.logits = self._decode(token)
        if progress is not None and left:
            progress(left)
        return self._results()

    def _prefill(self, requests: list[Request]) -> Tensor:
        """Fill the cache with every distinct prompt once; logits of the first token, [R, V]."""
        prompts = {ids: row for row, ids in enumerate(dict.fromkeys(r.prompt_ids for r in requests))}
        width = max(map(len, prompts))
        device, dtype = self.policy.device, self.policy.head_weight.dtype
        token_ids = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts], device=device)
        padding = torch.tensor([width - len(ids) for ids in prompts], device=device)
        positions = (torch.arange(width, device=device) - padding[:, None]).clamp(min=0)
        cache = SlotCache(width)
        states = self.policy.forward(
            token_ids, positions, layout=Prefill.of(padding, width, dtype=dtype), cache=cache
        )
        cache.filled = width
        copies = torch.tensor([prompts[r.prompt_ids] for r in requests], device=device)
        capacity = width + self.sampling.max_tokens
        self.cache = cache.spread(copies, capacity=capacity)
        self.padding = padding[copies]
        self.layout = Decoding.of(self.padding, capacity, dtype=dtype)
        return self._head(states[:, -1])[copies]

    def _draw(self, step: int) -> Tensor:
        """The next token of every row, [B]; records it and marks the rows that have ended."""
        logprobs = sampler_logprobs(self.logits, self.sampling)
        greedy = self.sampling.temperature == 0
        token = logprobs.argmax(-1) if greedy else draw(logprobs, self.uniforms[step, self.rows])
        self.tokens[step, self.rows] = token
        self.logprobs[step, self.rows] = logprobs.gather(1, token[:, None])[:, 0]
        ended = torch.isin(token, self.eos)
        if self.sampling.stop:
            ended |= self.stops.ended(self.tokens[: step + 1], self.rows)
        ended &= self.running
        self.lengths[self.rows[ended]] = step + 1
        self.running &= ~ended
        return token

    def _decode(self, token: Tensor) -> Tensor:
        """Logits [B, V] after one more token per row."""
        positions = (self.cache.filled - self.padding)[:, None]
        states = self.policy.forward(token[:, None], positions, layout=self.layout, cache=self.cache)
        self.cache.filled += 1
        return self._head(states[:, 0])

    def _compact(self, token: Tensor) -> Tensor:
        """Drop the rows that have ended; what is left of ``token``."""
        left = self.running.nonzero()[:, 0]
        self.rows, self.running, self.padding = self.rows[left], self.running[left], self.padding[left]
        self.cache = self.cache.keep(left)
        if self.layout.mask is not None:
            self.layout = Decoding(self.layout.mask[left])
        return token[left]

    def _head(self, states: Tensor) -> Tensor:
        return F.linear(states, self.policy.head_weight)

    def _results(self) -> Iterator[tuple[tuple[int, ...], tuple[float, ...], FinishReason]]:
        cut = set(self.rows[self.running].tolist())
        columns = zip(self.tokens.T.tolist(), self.logprobs.T.tolist(), self.lengths.tolist(), strict=True)
        for request, (ids, logprobs, length) in enumerate(columns):
            reason: FinishReason = "length" if request in cut else "stop"
            yield tuple(ids[:length]), tuple(logprobs[:length]), reason


def _uniforms(requests: list[Request]) -> Tensor:
    """The uniform number of every position and request, [T, R] float64."""
    sampling = requests[0].sampling
    if sampling.temperature == 0:
        return torch.empty(0, 0, dtype=torch.float64)
    return torch.from_numpy(np.stack([uniforms(r.seed, sampling.max_tokens) for r in requests], axis=1))
