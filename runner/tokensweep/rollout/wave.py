"""One wave of the embedded engine: from prompts to completions around one static key-value cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tokensweep.models.policy import Policy
from tokensweep.rollout.cache import Decoding, Prefill, SlotCache
from tokensweep.rollout.protocol import FinishReason, Progress, Request, SamplingSpec, uniforms
from tokensweep.rollout.rules import only_rule_of
from tokensweep.rollout.sampling import draw, sampler_logprobs
from tokensweep.rollout.stops import StopTexts

COMPACT_BELOW = 0.75  # share of rows still running below which moving the cache pays

Completion = tuple[tuple[int, ...], tuple[float, ...], FinishReason]  # ids, sampler logprobs, why it ended


class Wave:
    """One batch on its way from prompts to completions. R requests, B rows still in the batch.

    All requests have the sampling and the rule of the first.
    """

    def __init__(self, requests: list[Request], policy: Policy) -> None:
        device = policy.device
        self.policy = policy
        self.sampling: SamplingSpec = requests[0].sampling
        self.rule = only_rule_of(requests[0].rules, engine="torch")
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

    def run(self, progress: Progress | None) -> Iterator[Completion]:
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
            if left < COMPACT_BELOW * len(self.rows):
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
        logprobs = sampler_logprobs(self._ruled(step), self.sampling)
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

    def _ruled(self, step: int) -> Tensor:
        """Logits [B, V] of the next token after the rule, if there is one."""
        if self.rule is None:
            return self.logits
        return self.rule(self.logits.float(), torch.full_like(self.rows, step))

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
        return self.policy.head.logits(states)

    def _results(self) -> Iterator[Completion]:
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
