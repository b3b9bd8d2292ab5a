"""What a model's forward keeps, planned from its sizes, is what a real forward keeps."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tokensweep.memory.shapes import kept, parameters
from tokensweep.models.attention import ATTENTION, Packed

importlib.import_module("tokensweep.models")

QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "intermediate_size": 288,
    "vocab_size": 200,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
LLAMA = {**{k: v for k, v in QWEN3.items() if k != "head_dim"}, "model_type": "llama"}


def made(shape: dict[str, Any]) -> Any:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape), dtype=torch.float32).eval()
    model.set_attn_implementation(ATTENTION)
    return model


def measured(shape: dict[str, Any], lengths: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes that a real forward over sequences of these lengths keeps, weights left out."""
    model = made(shape)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, Tensor] = {}

    def note(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            held[x.untyped_storage().data_ptr()] = x
        return x

    layout = Packed(lengths, torch.device("cpu"))
    rounded = nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype=dtype)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x), rounded:
        states = model.base_model(
            input_ids=torch.ones(1, sum(lengths), dtype=torch.int64),
            position_ids=layout.positions[None],
            attention_mask=torch.empty(1, 1, 1, 1),
            use_cache=False,
            layout=layout,
        ).last_hidden_state
    assert states.requires_grad  # and alive, with all that it needs
    return sum(x.untyped_storage().nbytes() for x in held.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [QWEN3, LLAMA], ids=["qwen3", "llama"])
def test_one_sequence_keeps_what_was_planned_to_the_byte(shape: dict[str, Any], dtype: torch.dtype) -> None:
    planned = kept(shape, dtype)
    assert planned.per_token * 300 + planned.casts == measured(shape, (300,), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sequences_of_all_lengths_keep_what_was_planned_within_15_percent(dtype: torch.dtype) -> None:
    lengths = (300, 210, 160, 90, 40, 12, 3)  # on a CPU attention pads them; a GPU in 16 bits does not
    planned = kept(QWEN3, dtype)
    found = measured(QWEN3, lengths, dtype)
    assert planned.per_token * sum(lengths) + planned.casts == pytest.approx(found, rel=0.15)


def test_products_in_16_bits_keep_a_copy_of_every_weight_but_embedding_and_norms() -> None:
    counted = parameters(QWEN3)
    norms_of_heads = 2 * 32 * 5  # of queries and keys, in each of 5 layers: in attention, but no product
    assert kept(QWEN3, torch.bfloat16).casts == 2 * (counted.products - norms_of_heads)
    assert kept(QWEN3, torch.float32).casts == 0


def test_parameters_are_those_of_the_model() -> None:
    model, counted = made(QWEN3), parameters(QWEN3)
    assert counted.total == sum(p.numel() for p in model.parameters())
    assert counted.kinds["embedding"] == counted.kinds["head"] == counted.head == 200 * 96
    assert counted.tensors == len(list(model.parameters()))
    assert parameters({**QWEN3, "tie_word_embeddings": True}).total == counted.total - 200 * 96


def test_the_cache_of_a_token_is_a_key_and_a_value_in_every_layer() -> None:
    # 5 layers, key and value, 3 heads of 32 numbers of 4 bytes; in 16 bits the key stays wide: its norm and
    # its rotation are no matrix products
    assert kept(QWEN3, torch.float32).cache_per_token == 5 * 2 * 3 * 32 * 4
    assert kept(QWEN3, torch.bfloat16).cache_per_token == 5 * (4 + 2) * 3 * 32


def test_sizes_that_make_no_model_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes must make a config that transformers knows"):
        parameters({**QWEN3, "model_type": "no_such_model"})
