"""Small random models in normal folders, for the tests of policies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tokensweep.models.characters import VOCABULARY, character_tokenizer

FolderOf = Callable[[str], Path]

_SHAPE: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,  # grouped heads
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.3,  # large: distributions far from uniform, so that mistakes show
}


def qwen3() -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**_SHAPE, tie_word_embeddings=True))


def llama_tied() -> Any:
    return LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=True))


def llama_untied() -> Any:
    return LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=False))


def mixtral() -> Any:
    """Its checkpoint has a tensor per expert, transformers one for all of a layer."""
    return MixtralForCausalLM(MixtralConfig(**_SHAPE, num_local_experts=4, num_experts_per_tok=2))


def qwen3_windowed() -> Any:
    return Qwen3ForCausalLM(
        Qwen3Config(**_SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    )


def granite_scaled() -> Any:
    return GraniteForCausalLM(GraniteConfig(**_SHAPE, logits_scaling=2.0))


def phi_with_bias() -> Any:
    return PhiForCausalLM(PhiConfig(**_SHAPE))


_MAKERS = {
    maker.__name__: maker
    for maker in (qwen3, llama_tied, llama_untied, mixtral, qwen3_windowed, granite_scaled, phi_with_bias)
}


@pytest.fixture
def folder_of(tmp_path: Path) -> FolderOf:
    """Writes a complete folder for one of the models above; its random weights are always the same."""

    def write(name: str) -> Path:
        folder = tmp_path / name
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _MAKERS[name]().save_pretrained(folder)
        character_tokenizer().save_pretrained(folder)
        return folder

    return write
