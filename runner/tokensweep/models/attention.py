"""The attention function that policies run with, registered with transformers under one name.

A forward that brings a :class:`Layout` in its keyword arguments is attended by it: :class:`Packed` keeps
the sequences of a flat ``[1, M]`` batch apart; the engine brings its own. Without a layout
(``model.generate``) it is transformers' ordinary SDPA with its ordinary mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "tokensweep"

_VARLEN_DTYPES = (torch.float16, torch.bfloat16)  # what the flash kernels of varlen_attn take


class Layout(Protocol):
    """Says which key every query of a forward may see."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        """Attention output [B, T, heads, D] of query [B, heads, T, D], key and value [B, kv_heads, T', D]."""
        ...


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float | None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Scaled dot-product attention with grouped heads left unrepeated."""
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


@dataclass(frozen=True)
class Packed:
    """Causal attention inside each of the sequences that lie one behind the other in a flat batch.

    ``lengths`` are the sequence lengths on the host; they add up to M. Padding exists only inside the
    operation: sequences of similar length (within a factor of two) are attended as one rectangle, padded
    on the right, where no real query can see it.
    """

    lengths: tuple[int, ...]
    device: torch.device

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        """Attention output [1, M, heads, D] of flat query, key and value [1, heads, M, D]."""
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # each [M, heads, D]
        if query.is_cuda and query.dtype in _VARLEN_DTYPES:
            return self._varlen(q, k, v, scale=scale)
        if len(set(self.lengths)) == 1:
            shape = (len(self.lengths), self.lengths[0])
            return _rectangle(q, k, v, shape=shape, scale=scale)[None]
        outputs = []
        for shape, rows in self._rectangles:
            picked = (x.index_select(0, rows) for x in (q, k, v))
            outputs.append(_rectangle(*picked, shape=shape, scale=scale))
        return torch.cat(outputs).index_select(0, self._inverse)[None]

    def _varlen(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None) -> Tensor:
        """Flash attention over ragged sequences; not run on a GPU by this project's tests."""
        from torch.nn.attention.varlen import varlen_attn  # CUDA only

        longest, bounds = max(self.lengths), self._bounds
        out = varlen_attn(
            q,
            k,
            v,
            bounds,
            bounds,
            longest,
            longest,
            scale=scale,
            window_size=(-1, 0),  # causal
            enable_gqa=q.shape[1] != k.shape[1],
        )
        assert isinstance(out, Tensor)
        return out[None]

    @cached_property
    def positions(self) -> Tensor:
        """Position within its sequence of every token, [M] int64."""
        lengths = torch.tensor(self.lengths)
        starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        return (torch.arange(int(lengths.sum())) - starts).to(self.device)

    @cached_property
    def _bounds(self) -> Tensor:
        return F.pad(torch.tensor(self.lengths).cumsum(0), (1, 0)).to(device=self.device, dtype=torch.int32)

    @cached_property
    def _rectangles(self) -> list[tuple[tuple[int, int], Tensor]]:
        """Shape (S, L) of every group with its tokens [S * L]; padding repeats the last of a sequence."""
        lengths = torch.tensor(self.lengths)
        starts = lengths.cumsum(0) - lengths
        groups = []
        for members in _groups(self.lengths):
            width = max(self.lengths[member] for member in members)
            column = torch.arange(width).expand(len(members), width)
            inside = torch.minimum(column, lengths[members, None] - 1)
            rows = (starts[members, None] + inside).flatten().to(self.device)
            groups.append(((len(members), width), rows))
        return groups

    @cached_property
    def _inverse(self) -> Tensor:
        """For every token the place of its output among the concatenated rectangles, [M] int64."""
        flat = torch.cat([rows for _, rows in self._rectangles])
        places = torch.arange(len(flat), device=self.device)
        real = torch.zeros(sum(self.lengths), dtype=torch.int64, device=self.device)
        # Where padding repeats a token, its first place is the real one.
        return real.scatter_reduce(0, flat, places, "amin", include_self=False)


def _rectangle(q: Tensor, k: Tensor, v: Tensor, *, shape: tuple[int, int], scale: float | None) -> Tensor:
    """Causal attention within each of the S rows of L tokens; all tensors are [S * L, heads, D]."""
    q, k, v = (x.view(*shape, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    return sdpa(q, k, v, scale=scale, causal=True).transpose(1, 2).flatten(0, 1)


def _groups(lengths: tuple[int, ...]) -> list[list[int]]:
    """Sequence indices by length, longest first; a new group begins below half the longest of the last."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not groups or 2 * lengths[index] < lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(index)
    return groups


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls in every layer."""
    if layout is not None:
        return layout.attend(query, key, value, scale=scaling), None
    output: Tensor = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )[0]
    return output, None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
