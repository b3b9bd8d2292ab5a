"""Small random models in normal folders, for the tests of policies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    HyperCLOVAXConfig,
    HyperCLOVAXForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MiniCPM3Config,
    MiniCPM3ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
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
_WITHOUT_HEAD_DIM = {name: value for name, value in _SHAPE.items() if name != "head_dim"}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_WINDOW = 4  # below most of the tests' lengths


def qwen3() -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**_SHAPE, tie_word_embeddings=True))


def llama_tied() -> Any:
    return LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=True))


def llama_untied() -> Any:
    return LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=False))


def mixtral() -> Any:
    """Its checkpoint has a tensor per expert, transformers one for all of a layer."""
    return MixtralForCausalLM(MixtralConfig(**_SHAPE, num_local_experts=4, num_experts_per_tok=2))


def qwen2() -> Any:
    return Qwen2ForCausalLM(Qwen2Config(**_WITHOUT_HEAD_DIM))


def qwen2_windowed() -> Any:
    """The upper of two layers sees four tokens."""
    window = {"use_sliding_window": True, "sliding_window": _WINDOW, "max_window_layers": 1}
    return Qwen2ForCausalLM(Qwen2Config(**_WITHOUT_HEAD_DIM, **window))


def mistral() -> Any:
    return MistralForCausalLM(MistralConfig(**_SHAPE, sliding_window=_WINDOW))


def qwen3_moe() -> Any:
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**_SHAPE, **_EXPERTS, moe_intermediate_size=16))


def olmoe() -> Any:
    return OlmoeForCausalLM(OlmoeConfig(**_WITHOUT_HEAD_DIM, **_EXPERTS))


def gemma() -> Any:
    return GemmaForCausalLM(GemmaConfig(**_SHAPE))


def gemma2() -> Any:
    """A window in every other layer, capped scores, and logits capped so low that it bends them."""
    caps = {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 5.0}
    config = Gemma2Config(**_SHAPE, **caps, sliding_window=_WINDOW, query_pre_attn_scalar=8)
    return Gemma2ForCausalLM(config)


def gemma3() -> Any:
    """Two layers with windows and local rotations around one without."""
    shape = {**_SHAPE, "num_hidden_layers": 3}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3TextConfig(**shape, layer_types=kinds, sliding_window=_WINDOW, query_pre_attn_scalar=8)
    return Gemma3ForCausalLM(config)


def granite() -> Any:
    """Logits are divided by two."""
    return GraniteForCausalLM(GraniteConfig(**_SHAPE, logits_scaling=2.0))


def cohere() -> Any:
    """Logits are multiplied by a quarter."""
    return CohereForCausalLM(CohereConfig(**_SHAPE, logit_scale=0.25))


def minicpm3() -> Any:
    """States are divided before the head, which is the same as dividing logits."""
    latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
    shape = {**_WITHOUT_HEAD_DIM, **latent, "v_head_dim": 8, "num_key_value_heads": 4, "dim_model_base": 12}
    return MiniCPM3ForCausalLM(MiniCPM3Config(**shape))


def phi() -> Any:
    """A head with a bias, which is not zero."""
    model = PhiForCausalLM(PhiConfig(**_SHAPE))
    torch.nn.init.normal_(model.lm_head.bias)
    return model


def gpt_oss() -> Any:
    return GptOssForCausalLM(GptOssConfig(**_SHAPE, num_local_experts=4, num_experts_per_tok=2))


def llama4() -> Any:
    return Llama4ForCausalLM(Llama4TextConfig(**_SHAPE, num_local_experts=2, intermediate_size_mlp=24))


def hyperclovax() -> Any:
    """Multiplies by what is a divisor everywhere else."""
    return HyperCLOVAXForCausalLM(HyperCLOVAXConfig(**_SHAPE, logits_scaling=2.0))


ARCHITECTURES = (
    qwen2,
    qwen2_windowed,
    qwen3,
    qwen3_moe,
    llama_tied,
    llama_untied,
    mistral,
    mixtral,
    gemma,
    gemma2,
    gemma3,
    olmoe,
    granite,
    cohere,
    minicpm3,
    phi,
)
_MAKERS = {maker.__name__: maker for maker in (*ARCHITECTURES, gpt_oss, llama4, hyperclovax)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take an ``architecture`` run once for each."""
    if "architecture" in metafunc.fixturenames:
        metafunc.parametrize("architecture", [maker.__name__ for maker in ARCHITECTURES])


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
