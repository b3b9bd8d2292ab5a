"""What a model is made of and what its forward keeps, from its config.json alone: no weights, no device.

Parameters are counted on torch's meta device. What a forward keeps for its backward is found by running it on
fake tensors, which have shapes and no numbers, with one and with two layers, for some tokens and for twice as
many: everything is linear in both. So it is the very code that trains that is measured, whatever the model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from tokensweep.models.attention import ATTENTION, Packed

_TOKENS = 64  # of the smaller forward
_DERIVED = ("layer_types", "dtype", "torch_dtype", "quantization_config")  # would contradict other sizes
_KINDS = (
    ("embed", "embedding"),
    ("lm_head", "head"),
    ("attn", "attention"),
    ("mlp", "mlp"),
    ("norm", "norms"),
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers in a model."""

    kinds: Mapping[str, int]  # embedding, head, attention, mlp, norms, other; a tied head is an embedding
    tensors: int  # parameter tensors
    largest: int  # numbers in the largest of them
    layers: int
    hidden: int  # H
    vocab: int  # V
    width: int  # query heads times their size
    positions: int  # the longest sequence that the model was made for

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.kinds.values())

    @property
    def head(self) -> int:
        """Those of the output matrix, tied or not."""
        return self.hidden * self.vocab

    @property
    def products(self) -> int:
        """Those that every token of a forward is multiplied with, the head left out."""
        return self.kinds.get("attention", 0) + self.kinds.get("mlp", 0)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a forward up to the states before the head keeps for its backward, in bytes."""

    per_token: float
    per_token_and_layer: float  # the part of it that one layer keeps
    casts: float  # copies of the weights in the number format of the products
    cache_per_token: int  # keys and values that an engine stores of a token


def parameters(architecture: Mapping[str, Any]) -> Parameters:
    """The numbers in a model of this config.json. Raises ValueError for one that is not known."""
    return _parameters(json.dumps(architecture, sort_keys=True))


def kept(architecture: Mapping[str, Any], dtype: torch.dtype) -> Kept:
    """What a forward keeps with matrix products in ``dtype`` and weights in float32."""
    return _kept(json.dumps(architecture, sort_keys=True), dtype)


@lru_cache(maxsize=256)
def _parameters(architecture: str) -> Parameters:
    config = _config(json.loads(architecture))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    kinds: Counter[str] = Counter()
    named = dict(model.named_parameters())
    for name, parameter in named.items():
        kinds[next((kind for part, kind in _KINDS if part in name), "other")] += parameter.numel()
    vocab, hidden = model.get_output_embeddings().weight.shape
    return Parameters(
        kinds=dict(kinds),
        tensors=len(named),
        largest=max(parameter.numel() for parameter in named.values()),
        layers=config.num_hidden_layers,
        width=config.num_attention_heads
        * (getattr(config, "head_dim", None) or hidden // config.num_attention_heads),
        hidden=hidden,
        vocab=vocab,
        positions=config.max_position_embeddings,
    )


@lru_cache(maxsize=256)
def _kept(architecture: str, dtype: torch.dtype) -> Kept:
    shape = json.loads(architecture)
    shape = shape.get("text_config", shape)
    layers, few, many = shape["num_hidden_layers"], _TOKENS, 2 * _TOKENS
    one, two = ({**shape, "num_hidden_layers": number} for number in (1, 2))
    bytes_of = {(n, m): _traced(c, m, dtype) for n, c in ((1, one), (2, two)) for m in (few, many)}
    slope = {n: (bytes_of[n, many][0] - bytes_of[n, few][0]) / few for n in (1, 2)}  # bytes per token
    fixed = {n: bytes_of[n, few][0] - slope[n] * few for n in (1, 2)}
    per_layer = slope[2] - slope[1]
    return Kept(
        per_token=slope[1] + (layers - 1) * per_layer,
        per_token_and_layer=per_layer,
        casts=fixed[1] + (layers - 1) * (fixed[2] - fixed[1]),
        cache_per_token=layers * (bytes_of[1, many][1] // many),
    )


def _traced(architecture: Mapping[str, Any], tokens: int, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that a forward over one sequence keeps beside the weights, and bytes of its keys and values."""
    layout = _Noted((tokens,), torch.device("cpu"))
    positions, kept_bytes = layout.positions, {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(_config(architecture), dtype=torch.float32).eval()
        model.set_attn_implementation(ATTENTION)
        weights = {_storage(parameter) for parameter in model.parameters()}
        alive = []  # storages are told apart by address

        def note(x: Tensor) -> Tensor:
            alive.append(x)
            if _storage(x) not in weights:
                kept_bytes[_storage(x)] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x), _autocast(dtype):
            model.base_model(
                input_ids=torch.zeros(1, tokens, dtype=torch.int64),
                position_ids=positions[None],
                attention_mask=torch.empty(1, 1, 1, 1),
                use_cache=False,
                layout=layout,
            )
    return sum(kept_bytes.values()), layout.noted[0]


class _Noted(Packed):
    """The trainer's own layout, which notes the size of the first layer's keys and values."""

    @property
    def noted(self) -> list[int]:
        """Bytes of keys and values, a number per layer."""
        return self.__dict__.setdefault("_noted", [])  # type: ignore[no-any-return]  # the class is frozen

    def attend(self, query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
        """As :meth:`Packed.attend`."""
        self.noted.append(sum(x.numel() * x.element_size() for x in (key, value)))
        return super().attend(query, key, value, **how)


def _config(architecture: Mapping[str, Any]) -> Any:
    text = architecture.get("text_config", architecture)  # of models that also see
    fields = {key: value for key, value in text.items() if key not in _DERIVED}
    try:
        return AutoConfig.for_model(**fields)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"the model's sizes must make a config that transformers knows, got {fields}: {error}"
        ) from error


def _autocast(dtype: torch.dtype) -> AbstractContextManager[object]:
    return nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype=dtype)


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)
