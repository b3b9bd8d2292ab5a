"""A static key-value cache that any transformers causal language model fills through its own forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from tokensweep.models.attention import Scoring, band, sdpa


class SlotCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values of every layer in fixed storage [rows, kv_heads, capacity, D].

    A forward writes its T new positions behind the ``filled`` ones; the engine then moves ``filled`` on.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self.filled = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store [B, kv_heads, T, D] of one layer and give back all that is stored, as views."""
        if layer_idx == len(self.keys):
            for storage, states in ((self.keys, key_states), (self.values, value_states)):
                storage.append(states.new_empty(*states.shape[:2], self.capacity, states.shape[3]))
        end = self.filled + key_states.shape[2]
        key, value = self.keys[layer_idx], self.values[layer_idx]
        key[:, :, self.filled : end] = key_states
        value[:, :, self.filled : end] = value_states
        return key[:, :, :end], value[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions stored so far."""
        return self.filled

    def spread(self, rows: Tensor, *, capacity: int) -> SlotCache:
        """A larger cache whose row i starts as a copy of row ``rows[i]``."""
        wide = SlotCache(capacity)
        wide.filled = self.filled
        for source, target in ((self.keys, wide.keys), (self.values, wide.values)):
            for old in source:
                new = old.new_empty(len(rows), old.shape[1], capacity, old.shape[3])
                new[:, :, : self.filled] = old[rows, :, : self.filled]
                target.append(new)
        return wide

    def keep(self, rows: Tensor) -> SlotCache:
        """The same cache with only ``rows`` left."""
        return self.spread(rows, capacity=self.capacity)


@dataclass(frozen=True)
class Prefill:
    """Attention of left-padded prompts among themselves."""

    mask: Tensor | None  # [U, 1, P, P] added to the scores; None: no padding, causal

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scoring: Scoring) -> Tensor:
        """Attention output [U, P, heads, D]."""
        mask, width = self.mask, query.shape[2]
        if scoring.narrower_than(width):
            inside = band(width, scoring.window, query.device)
            mask = inside if mask is None else mask.masked_fill(~inside, -torch.inf)
        return sdpa(query, key, value, scoring=scoring, mask=mask, causal=mask is None).transpose(1, 2)

    @staticmethod
    def of(padding: Tensor, width: int, *, dtype: torch.dtype) -> Prefill:
        """For prompts with ``padding`` [U] slots on the left of ``width``."""
        if not bool(padding.any()):
            return Prefill(None)
        slot = torch.arange(width, device=padding.device)
        real = slot[None, None, :] >= padding[:, None, None]
        seen = (slot[:, None] >= slot[None, :]) & real | torch.eye(
            width, dtype=torch.bool, device=padding.device
        )
        return Prefill(_additive(seen, dtype=dtype)[:, None])


@dataclass(frozen=True)
class Decoding:
    """Attention of one new token per row to everything stored in its row but the padding."""

    mask: Tensor | None  # [B, 1, 1, capacity] added to the scores; None: no padding

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scoring: Scoring) -> Tensor:
        """Attention output [B, 1, heads, D]."""
        end = key.shape[2]
        mask = None if self.mask is None else self.mask[..., :end]
        if scoring.window is not None and scoring.narrower_than(end):  # the newest keys lie at the end
            start = end - scoring.window
            key, value = key[:, :, start:], value[:, :, start:]
            mask = None if mask is None else mask[..., start:]
        return sdpa(query, key, value, scoring=scoring, mask=mask).transpose(1, 2)

    @staticmethod
    def of(padding: Tensor, capacity: int, *, dtype: torch.dtype) -> Decoding:
        """For rows with ``padding`` [B] unused slots on the left."""
        if not bool(padding.any()):
            return Decoding(None)
        seen = torch.arange(capacity, device=padding.device) >= padding[:, None]
        return Decoding(_additive(seen, dtype=dtype)[:, None, None])


def _additive(seen: Tensor, *, dtype: torch.dtype) -> Tensor:
    """0 where a key is seen, -inf elsewhere."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -torch.inf)
