"""Packed attention of every kind against its definition, token by token."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tokensweep.models.attention import Packed, Scoring

LENGTHS = (7, 3, 12, 1, 5)


def tensors(*, heads: int = 4, kv_heads: int = 2, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Query [1, heads, M, D], key and value [1, kv_heads, M, D]."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(heads, sum(LENGTHS), size), (kv_heads, sum(LENGTHS), size), (kv_heads, sum(LENGTHS), size)]
    query, key, value = (torch.randn(1, *shape, generator=draw, dtype=torch.float64) for shape in shapes)
    return 3 * query, key, value


def by_definition(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring, *, before: int | None = None) -> Tensor:
    """One query at a time, [M, heads, D]; it sees itself and at most ``before`` tokens of its sequence."""
    out = torch.empty_like(q[0].transpose(0, 1))
    scale = scoring.scale or 1 / math.sqrt(q.shape[3])
    start = 0
    for length in LENGTHS:
        for place in range(start, start + length):
            first = start if before is None else max(start, place - before)
            for head in range(q.shape[1]):
                shared = head // (q.shape[1] // k.shape[1])
                scores = scale * (k[0, shared, first : place + 1] @ q[0, head, place])
                if scoring.softcap is not None:
                    scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
                out[place, head] = scores.softmax(0) @ v[0, shared, first : place + 1]
        start += length
    return out


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 1, 4, 12, 100])
@pytest.mark.parametrize("scale", [None, 0.2])
def test_packed_attention_is_that_of_the_definition(
    scale: float | None, window: int | None, softcap: float | None
) -> None:
    q, k, v = tensors()
    scoring = Scoring(scale=scale, window=window, softcap=softcap)
    packed = Packed(LENGTHS, torch.device("cpu"))
    expected = by_definition(q, k, v, scoring, before=None if window is None else window - 1)
    torch.testing.assert_close(packed.attend(q, k, v, scoring=scoring)[0], expected)


@pytest.mark.parametrize("window", [None, 4])
def test_the_flash_kernel_is_asked_for_the_same_window(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel runs on a GPU only: its place is taken by its documentation, in which (W, 0) is W tokens
    # to the left of a query's own and none to the right, and -1 no limit.
    def documented(q: Tensor, k: Tensor, v: Tensor, *bounds: Any, **options: Any) -> Tensor:
        left, right = options["window_size"]
        assert right == 0
        assert bounds[0].tolist() == bounds[1].tolist() == [0, 7, 10, 22, 23, 28]
        assert bounds[2:] == (12, 12)
        query, key, value = (x.transpose(0, 1)[None] for x in (q, k, v))
        scoring = Scoring(scale=options["scale"])
        return by_definition(query, key, value, scoring, before=None if left == -1 else left)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", documented)
    q, k, v = tensors()
    packed, scoring = Packed(LENGTHS, torch.device("cpu")), Scoring(scale=0.2, window=window)
    flash = packed._varlen(*(x[0].transpose(0, 1) for x in (q, k, v)), scoring=scoring)
    torch.testing.assert_close(flash, packed.attend(q, k, v, scoring=scoring))
