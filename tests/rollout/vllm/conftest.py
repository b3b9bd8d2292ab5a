"""A vLLM server takes half a minute to start, so tests that leave it as it was share one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tokensweep.models.policy import Policy
from tokensweep.models.tiny import TinyModel
from tokensweep.problems.ops import Ops
from tokensweep.rollout import Request, Rollout
from tokensweep.rollout.vllm import VllmEngine

SMALL = {"max_num_seqs": 16, "kv_cache_gb": 0.1}
_SHARPEN = 6.0  # fresh weights give nearly uniform distributions, in which a mistake would not show


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder that starts a server."""
    for item in items:
        if item.path.parent == Path(__file__).parent and "engine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.vllm)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 with tied embeddings and sharpened distributions, of a head size that vLLM takes."""
    made = TinyModel(hidden=64, layers=2, heads=2, head_dim=32, mlp=96, steps=0).materialise(
        data=Ops(size=1, steps=1), cache=tmp_path_factory.mktemp("models")
    )
    policy = Policy(made)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(_SHARPEN)
    sharp = tmp_path_factory.mktemp("sharp")
    policy.save(sharp)
    return sharp


@pytest.fixture
def policy(folder: Path) -> Policy:
    """The model as it was made; every test may change its weights."""
    return Policy(folder)


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[VllmEngine]:
    """The engine that :func:`engine` hands out; its server starts with the first load."""
    engine = VllmEngine(**SMALL)  # type: ignore[arg-type]  # values of several types
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine: VllmEngine, policy: Policy) -> VllmEngine:
    """An engine that has the policy's weights."""
    shared_engine.load(policy, version=0)
    return shared_engine


def moved(policy: Policy, *, seed: int = 0) -> None:
    """Change every weight, as some optimiser steps would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


@torch.no_grad()
def independent_logprobs(policy: Policy, folder: Path, request: Request, rollout: Rollout) -> list[float]:
    """Log-probabilities of a completion by transformers alone, from weights that were saved and loaded."""
    policy.save(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    table = model(input_ids=torch.tensor([request.prompt_ids + rollout.completion_ids])).logits[0]
    table = (table / request.sampling.temperature).log_softmax(-1)
    start = len(request.prompt_ids) - 1
    return [float(table[start + place, token]) for place, token in enumerate(rollout.completion_ids)]


def worst(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest difference."""
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))
