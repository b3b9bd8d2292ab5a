"""The output head of a language model as a value: what the fused loss and the embedded engine need of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """Logits are ``scale * cap(states @ weight.T + bias)`` with ``cap(x) = softcap * tanh(x / softcap)``."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None  # [V]
    scale: float = 1.0
    softcap: float | None = None  # None: no cap

    def logits(self, states: Tensor) -> Tensor:
        """Logits [..., V] of states [..., H]; in float32 or better where they are capped or scaled."""
        return self.finish(F.linear(states, self.weight, self.bias))

    def finish(self, products: Tensor) -> Tensor:
        """Logits of ``states @ weight.T + bias``."""
        if self.softcap is None and self.scale == 1:
            return products
        wide = products.to(torch.promote_types(products.dtype, torch.float32))
        if self.softcap is not None:
            wide = self.softcap * torch.tanh(wide / self.softcap)
        return self.scale * wide


def head_of(model: Any) -> Head:
    """The head of a transformers causal language model, its parameters themselves and not copies.

    Cap and scale are read from the config under the names that transformers' models use: Gemma's and
    NanoChat's ``final_logit_softcapping``, Cohere's ``logit_scale`` (a factor), Granite's and MiniCPM3's
    ``logits_scaling`` (a divisor). Whether that is all the model does, only a comparison can tell.
    """
    config, layer = model.config.get_text_config(), model.get_output_embeddings()
    factor = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return Head(
        weight=layer.weight,
        bias=getattr(layer, "bias", None),
        scale=factor / divisor,
        softcap=getattr(config, "final_logit_softcapping", None),
    )
