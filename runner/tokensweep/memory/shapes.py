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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from tokensweep.models.attention import ATTENTION, Packed
from tokensweep.models.trainable import Lora
from tokensweep.train.activations import recompute_layers

_TOKENS = 64  # of the smaller forward
_DERIVED = ("layer_types", "dtype", "torch_dtype", "quantization_config")  # would contradict other sizes
_KINDS = (  # part of a parameter's name, and what it is; the first that fits
    ("lora_", "adapters"),
    ("embed", "embedding"),
    ("lm_head", "head"),
    ("attn", "attention"),
    ("mlp", "mlp"),
    ("norm", "norms"),
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers in a model."""

    kinds: Mapping[str, int]  # by the second words of _KINDS, and other; a tied head is an embedding
    trained: int  # numbers that the optimiser moves
    tensors: int  # parameter tensors of these
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


def parameters(architecture: Mapping[str, Any], lora: Lora | None = None) -> Parameters:
    """The numbers in a model of this config.json, of which all are trained or the adapters alone.

    Raises ValueError for a config.json that is not known and for targets of adapters that it does not have.
    """
    return _parameters(json.dumps(architecture, sort_keys=True), lora)


def kept(
    architecture: Mapping[str, Any],
    dtype: torch.dtype,
    *,
    lora: Lora | None = None,
    recomputed: bool = False,
) -> Kept:
    """What a forward keeps with matrix products in ``dtype`` and weights in float32.

    With ``recomputed``, layers keep their input and are run again in the backward.
    """
    return _kept(json.dumps(architecture, sort_keys=True), dtype, lora, recomputed)


@lru_cache(maxsize=256)
def _parameters(architecture: str, lora: Lora | None) -> Parameters:
    model = _model(json.loads(architecture), lora)
    config = model.config
    kinds: Counter[str] = Counter()
    named = dict(model.named_parameters())
    for name, parameter in named.items():
        kinds[next((kind for part, kind in _KINDS if part in name), "other")] += parameter.numel()
    trained = [parameter.numel() for parameter in named.values() if parameter.requires_grad]
    vocab, hidden = model.get_output_embeddings().weight.shape
    return Parameters(
        kinds=dict(kinds),
        trained=sum(trained),
        tensors=len(trained),
        largest=max(trained),
        layers=config.num_hidden_layers,
        width=config.num_attention_heads
        * (getattr(config, "head_dim", None) or hidden // config.num_attention_heads),
        hidden=hidden,
        vocab=vocab,
        positions=config.max_position_embeddings,
    )


@lru_cache(maxsize=256)
def _kept(architecture: str, dtype: torch.dtype, lora: Lora | None, recomputed: bool) -> Kept:
    shape = json.loads(architecture)
    shape = shape.get("text_config", shape)
    layers, few, many = shape["num_hidden_layers"], _TOKENS, 2 * _TOKENS
    one, two = ({**shape, "num_hidden_layers": number} for number in (1, 2))
    bytes_of = {
        (n, m): _traced(c, m, dtype, lora, recomputed) for n, c in ((1, one), (2, two)) for m in (few, many)
    }
    slope = {n: (bytes_of[n, many][0] - bytes_of[n, few][0]) / few for n in (1, 2)}  # bytes per token
    fixed = {n: bytes_of[n, few][0] - slope[n] * few for n in (1, 2)}
    per_layer = slope[2] - slope[1]
    return Kept(
        per_token=slope[1] + (layers - 1) * per_layer,
        per_token_and_layer=per_layer,
        casts=fixed[1] + (layers - 1) * (fixed[2] - fixed[1]),
        cache_per_token=layers * (bytes_of[1, many][1] // many),
    )


def _traced(
    architecture: Mapping[str, Any], tokens: int, dtype: torch.dtype, lora: Lora | None, recomputed: bool
) -> tuple[int, int]:
    """Bytes that a forward over one sequence keeps beside the weights, and bytes of its keys and values."""
    layout = _Noted((tokens,), torch.device("cpu"))
    positions, kept_bytes = layout.positions, {}
    model = _model(architecture, lora)
    model.set_attn_implementation(ATTENTION)
    if recomputed:
        recompute_layers(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _fake(model)
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


def _model(architecture: Mapping[str, Any], lora: Lora | None) -> Any:
    """The model on the meta device, in float32, with the adapters that are trained, if there are any."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_config(architecture), dtype=torch.float32).eval()
        if lora is None:
            return model
        from tokensweep.models.lora import adapted_model  # needs peft

        return adapted_model(model, lora, folder=Path("the model"))[0]


def _fake(model: Any) -> None:
    """Put fake tensors of the CPU in place of all that a model holds; one that comes twice stays one.

    Made on fake tensors to begin with, a model cannot be adapted: peft moves its layers, which they refuse.
    """
    fakes: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, x in held.items():
                if x is not None and x not in fakes:
                    fakes[x] = torch.empty(x.shape, dtype=x.dtype)
                    if isinstance(x, torch.nn.Parameter):
                        fakes[x] = torch.nn.Parameter(fakes[x], x.requires_grad)
                held[name] = None if x is None else fakes[x]


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
