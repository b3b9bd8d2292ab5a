"""The weights of a model under the names that they have in its checkpoint, for engines of other processes.

transformers may hold a model otherwise than its checkpoint does: tied tensors twice, the experts of a layer
stacked into one tensor, modules under other names. What another program loads must look like the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from transformers.core_model_loading import WeightConverter, revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict


def held_weights(model: Any) -> dict[str, Tensor]:
    """Parameters and saved buffers as the model names them, without gradient and a tied one once.

    The tensors are the model's own, not copies.
    """
    weights: dict[str, Tensor] = remove_tied_weights_from_state_dict(model.state_dict(), model)
    return weights


def as_in_checkpoint(model: Any, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """``weights``, which have the model's names, as its checkpoint names and cuts them.

    One after the other where only names differ; a model whose tensors are cut otherwise (stacked experts)
    is converted as a whole.
    """
    conversions = getattr(model, "_weight_conversions", None) or ()
    if any(isinstance(conversion, WeightConverter) for conversion in conversions):
        yield from revert_weight_conversion(model, dict(weights)).items()
        return
    for name, tensor in weights:
        yield from revert_weight_conversion(model, {name: tensor}).items()
