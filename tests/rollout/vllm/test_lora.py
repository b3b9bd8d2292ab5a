"""Adapters of ``trainable=lora`` through vLLM: merged into the weights, and alone as a LoRA request."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.rollout.vllm.conftest import SMALL, worst

from tokensweep.models.lora import LoraPolicy
from tokensweep.models.trainable import Lora
from tokensweep.rollout import Request, SamplingSpec
from tokensweep.rollout.vllm import VllmEngine
from tokensweep.rollout.vllm.weights import Way

_REQUESTS = [
    Request(prompt_ids=(5, 6, 7 + row), seed=row, sampling=SamplingSpec(max_tokens=12)) for row in range(6)
]


@pytest.mark.vllm
@pytest.mark.parametrize("way", [Way.file, Way.adapter])
def test_rollouts_come_from_the_adapted_model_after_every_update(folder: Path, way: Way) -> None:
    policy = LoraPolicy(folder, lora=Lora(rank=4, alpha=16), seed=0)
    engine = VllmEngine(weights=way, **SMALL)  # type: ignore[arg-type]  # values of several types
    seen = []
    try:
        for step in range(3):
            engine.load(policy, version=step)
            rollouts = engine.generate(_REQUESTS)
            for request, rollout in zip(_REQUESTS, rollouts, strict=True):
                ids = torch.tensor([request.prompt_ids + rollout.completion_ids])
                with torch.no_grad():
                    table = policy.model(input_ids=ids).logits[0].log_softmax(-1)
                expected = [float(table[2 + i, token]) for i, token in enumerate(rollout.completion_ids)]
                assert worst(rollout.sampler_logprobs, expected) < 1e-4
                assert rollout.weights_version == step
            seen.append([rollout.completion_ids for rollout in rollouts])
            with torch.no_grad():
                for parameter in policy.trained.values():
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
    finally:
        engine.close()
    assert seen[0] != seen[1] != seen[2]
