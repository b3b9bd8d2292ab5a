"""Ends a completion when one of the stop texts has been written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SLACK = 4  # tokens more than a text has bytes: special tokens in between write nothing


@dataclass(frozen=True)
class StopTexts:
    """Looks for ``texts`` at the end of what ``decode`` makes of the last tokens."""

    texts: tuple[str, ...]
    decode: Callable[[list[int]], str]

    def ended(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """True [B] for the rows, columns of tokens [T, R], whose last tokens hold a stop text."""
        if not self.texts:
            return torch.zeros_like(rows, dtype=torch.bool)
        window = max(len(text.encode()) for text in self.texts) + _SLACK
        tails: Sequence[list[int]] = tokens[-window:, rows].T.tolist()
        decoded = [self.decode(tail) for tail in tails]
        return torch.tensor(
            [any(text in tail for text in self.texts) for tail in decoded], device=rows.device
        )
