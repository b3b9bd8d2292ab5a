"""The attention function that policies run with, registered with transformers under one name.

A forward that brings a :class:`Layout` in its keyword arguments is attended by it: :class:`Packed` keeps
the sequences of a flat ``[1, M]`` batch apart; the engine brings its own. Without a layout
(``model.generate``) it is transformers' ordinary SDPA with its ordinary mask. What differs between the layers
of a model (window, cap) comes from transformers' modules as a :class:`Scoring`.
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

_UNKNOWN = {"s_aux": "attention sinks", "position_bias": "learnt position biases"}

_VARLEN_DTYPES = (torch.float16, torch.bfloat16)  # what the flash kernels of varlen_attn take


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How a layer scores keys, and how far back it looks."""

    scale: float | None = None  # of the products; None: 1 / sqrt(D)
    window: int | None = None  # tokens that a query sees, its own included; None: all up to its own
    softcap: float | None = None  # scores become softcap * tanh(score / softcap); Gemma2 only

    def narrower_than(self, length: int) -> bool:
        """Whether the window hides something in a sequence of this length."""
        return self.window is not None and self.window < length


class Layout(Protocol):
    """Says which key every query of a forward may see."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scoring: Scoring) -> Tensor:
        """Attention output [B, T, heads, D] of query [B, heads, T, D], key and value [B, kv_heads, T', D]."""
        ...


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scoring: Scoring,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Scaled dot-product attention with grouped heads left unrepeated; the window is the mask's affair.

    ``mask`` is True where a key is seen, or is added to the scores. Capped scores have no fused kernel: they
    are made one by one, [B, heads, T, T'] numbers at a time.
    """
    if scoring.softcap is not None:
        return _capped(query, key, value, scoring=scoring, mask=mask, causal=causal)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal,
        scale=scoring.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _capped(
    query: Tensor, key: Tensor, value: Tensor, *, scoring: Scoring, mask: Tensor | None, causal: bool
) -> Tensor:
    """Attention with soft-capped scores by its definition, softmax in float32 or better."""
    assert scoring.softcap is not None
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scoring.scale is None else scoring.scale
    scores = scoring.softcap * torch.tanh(query @ key.transpose(2, 3) * (scale / scoring.softcap))
    if causal:
        mask = band(query.shape[2], None, query.device)
    if mask is not None and mask.dtype == torch.bool:
        # Not -inf: a padded query may see no key at all, and its NaN would spread through its value.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    wide = torch.promote_types(query.dtype, torch.float32)
    return scores.softmax(-1, dtype=wide).to(query.dtype) @ value


def band(length: int, window: int | None, device: torch.device) -> Tensor:
    """True where a query sees a key, [length, length]: its own and up to ``window - 1`` before it."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)


@dataclass(frozen=True)
class Packed:
    """Causal attention inside each of the sequences that lie one behind the other in a flat batch.

    ``lengths`` are the sequence lengths on the host; they add up to M. Padding exists only inside the
    operation: sequences of similar length (within a factor of two) are attended as one rectangle, padded
    on the right, where no real query can see it.
    """

    lengths: tuple[int, ...]
    device: torch.device

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scoring: Scoring) -> Tensor:
        """Attention output [1, M, heads, D] of flat query, key and value [1, heads, M, D]."""
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # each [M, heads, D]
        if query.is_cuda and query.dtype in _VARLEN_DTYPES and scoring.softcap is None:
            return self._varlen(q, k, v, scoring=scoring)
        if len(set(self.lengths)) == 1:
            shape = (len(self.lengths), self.lengths[0])
            return _rectangle(q, k, v, shape=shape, scoring=scoring)[None]
        outputs = []
        for shape, rows in self._rectangles:
            picked = (x.index_select(0, rows) for x in (q, k, v))
            outputs.append(_rectangle(*picked, shape=shape, scoring=scoring))
        return torch.cat(outputs).index_select(0, self._inverse)[None]

    def _varlen(self, q: Tensor, k: Tensor, v: Tensor, *, scoring: Scoring) -> Tensor:
        """Flash attention over ragged sequences; not run on a GPU by this project's tests."""
        from torch.nn.attention.varlen import varlen_attn  # CUDA only

        longest, bounds = max(self.lengths), self._bounds
        before = -1 if scoring.window is None else scoring.window - 1  # the query's own token is not counted
        out = varlen_attn(
            q,
            k,
            v,
            bounds,
            bounds,
            longest,
            longest,
            scale=scoring.scale,
            window_size=(before, 0),  # nothing after it: causal
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


def _rectangle(q: Tensor, k: Tensor, v: Tensor, *, shape: tuple[int, int], scoring: Scoring) -> Tensor:
    """Causal attention within each of the S rows of L tokens; all tensors are [S * L, heads, D]."""
    q, k, v = (x.view(*shape, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    narrow = scoring.narrower_than(shape[1])
    mask = band(shape[1], scoring.window, q.device) if narrow else None
    return sdpa(q, k, v, scoring=scoring, mask=mask, causal=not narrow).transpose(1, 2).flatten(0, 1)


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
    sliding_window: int | None = None,
    softcap: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls in every layer; raises ValueError for what it can not do."""
    for name, what in _UNKNOWN.items():
        if kwargs.get(name) is not None:
            raise ValueError(f"{type(module).__name__} has {what}, which are not supported")
    scoring = Scoring(scale=scaling, window=sliding_window, softcap=softcap)
    if layout is not None:
        return layout.attend(query, key, value, scoring=scoring), None
    if softcap is not None:  # the window is in transformers' mask
        causal = attention_mask is None and query.shape[2] > 1
        capped = sdpa(query, key, value, scoring=scoring, mask=attention_mask, causal=causal)
        return capped.transpose(1, 2).contiguous(), None
    output: Tensor = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )[0]
    return output, None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
