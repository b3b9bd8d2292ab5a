"""A logits processor for the tests: a request's rule ``ban`` names a token that is never drawn."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor


class Ban(LogitsProcessor):  # type: ignore[misc]  # vllm is untyped here
    """Sets the logit of the banned token to -inf."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.banned: dict[int, int] = {}

    def is_argmax_invariant(self) -> bool:
        """It may ban the likeliest token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests through the batch."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.banned.pop(row, None)
        for row, params, *_ in batch_update.added:
            self.banned.pop(row, None)
            if params.extra_args and "ban" in params.extra_args:
                self.banned[row] = int(params.extra_args["ban"])
        for source, target, direction in batch_update.moved:
            there, here = self.banned.pop(target, None), self.banned.pop(source, None)
            if here is not None:
                self.banned[target] = here
            if direction.name == "SWAP" and there is not None:
                self.banned[source] = there

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Ban."""
        for row, token in self.banned.items():
            logits[row, token] = -torch.inf
        return logits
