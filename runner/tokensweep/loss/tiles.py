"""Pieces of logits: what walks over rows and vocabulary, makes a tile, and adds up its products.

For the statistics of the fused head, which never hold the N x V logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

CPU_TILE = (512, 1024)  # 2 MB in float32: tile and exponential stay in the caches of one core
GPU_TILE = (1024, 4096)  # large enough to fill the device with each operation


@dataclass(frozen=True)
class Tiles:
    """Size of the largest piece of the logits that exists at a time."""

    rows: int
    vocab: int

    @classmethod
    def suited(cls, device: torch.device, *, rows: int | None, vocab: int | None) -> Self:
        """Tiles of the sizes given, or of those that suit the device."""
        suited = CPU_TILE if device.type == "cpu" else GPU_TILE
        return cls(rows=rows or suited[0], vocab=vocab or suited[1])

    def over_rows(self, count: int) -> Iterator[slice]:
        """Blocks of ``count`` rows."""
        return (slice(start, min(start + self.rows, count)) for start in range(0, count, self.rows))

    def over_vocab(self, count: int) -> Iterator[slice]:
        """Blocks of ``count`` words."""
        return (slice(start, min(start + self.vocab, count)) for start in range(0, count, self.vocab))


@dataclass(frozen=True)
class Projection:
    """From states to logits: weight [V, H], bias [V] and soft cap."""

    weight: Tensor
    bias: Tensor | None
    softcap: float | None

    def raw(self, hidden: Tensor, vocab: slice) -> Tensor:
        """One tile of x in the wide type, or of tanh(x / softcap); x is the product with its bias."""
        x = matmul(hidden, self.weight[vocab].t())
        if self.bias is not None:
            x.add_(self.bias[vocab])
        return x if self.softcap is None else x.div_(self.softcap).tanh_()

    def factor(self, scales: Tensor) -> Tensor:
        """What turns ``raw`` into logits, [n, 1]: after the product, so never in 16 bits."""
        return (scales if self.softcap is None else scales * self.softcap).unsqueeze(1)


def accumulator(total: Tensor | None, rows: slice, *, dtype: torch.dtype) -> Tensor | None:
    """Where the products for some rows of ``total`` are added up: they themselves if they are wide enough."""
    if total is None or total.dtype == dtype:
        return None if total is None else total[rows]
    return torch.zeros_like(total[rows], dtype=dtype)


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """The number format of sums over values of ``dtype``: float32 or better."""
    return torch.promote_types(dtype, torch.float32)


def add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add the product of x and y to ``total``, in one operation where all are of its type."""
    if x.dtype == y.dtype == total.dtype:
        total.addmm_(x, y)
    else:
        total += matmul(x, y)


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """Product accumulated and returned in float32 or better, whatever the 16-bit inputs."""
    narrow = y.dtype in (torch.bfloat16, torch.float16)
    if narrow and y.is_cuda:  # tensor cores: 16-bit factors, float32 sum
        return torch.mm(x.to(y.dtype), y, out_dtype=torch.float32)
    dtype = torch.promote_types(wide_type(x.dtype), y.dtype)
    return torch.mm(x.to(dtype), y.to(dtype))
