"""Tiny random models of other architectures through vLLM's CPU build, before and after an update."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.rollout.vllm.conftest import SMALL, independent_logprobs, moved, worst
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tokensweep.models.characters import VOCABULARY, character_tokenizer
from tokensweep.models.policy import Policy
from tokensweep.rollout import Request, SamplingSpec
from tokensweep.rollout.vllm import VllmEngine

_SHAPE: dict[str, Any] = {  # heads of 32 numbers, which vLLM's CPU kernels take
    "vocab_size": len(VOCABULARY),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.2,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_MODELS: dict[str, Callable[[], Any]] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SHAPE, tie_word_embeddings=False)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=True)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**_SHAPE, head_dim=32)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**_SHAPE, **_EXPERTS, head_dim=32, moe_intermediate_size=32)
    ),
    "olmoe": lambda: OlmoeForCausalLM(OlmoeConfig(**{**_SHAPE, "num_key_value_heads": 2}, **_EXPERTS)),
}
_REQUESTS = [
    Request(prompt_ids=(5, 6, 7 + row), seed=row, sampling=SamplingSpec(max_tokens=12)) for row in range(6)
]


@pytest.mark.vllm
@pytest.mark.parametrize("name", _MODELS)
def test_logprobs_are_those_of_transformers_before_and_after_an_update(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tmp_path / name
    _MODELS[name]().save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    policy, engine = Policy(folder), VllmEngine(**SMALL)  # type: ignore[arg-type]  # values of several types
    try:
        for step in (0, 1):
            engine.load(policy, version=step)
            for request, rollout in zip(_REQUESTS, engine.generate(_REQUESTS), strict=True):
                expected = independent_logprobs(policy, tmp_path / str(step), request, rollout)
                assert worst(rollout.sampler_logprobs, expected) < 1e-4
            moved(policy)
    finally:
        engine.close()
