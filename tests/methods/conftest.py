"""Methods as their presets compose them, without the rest of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from torch import Tensor

import tokensweep.config
import tokensweep.methods  # noqa: F401  registers the components
from tokensweep.loss.laws import Policies, loss_and_gradient
from tokensweep.loss.method import Method, build_method
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch, pack
from tokensweep.paths import conf_dir

# conf/train.yaml without model, data and rollout engine: the neutral choice in every single slot
_METHOD_ONLY: list[Any] = [
    "run_schema",
    {"method/source": "engine"},
    {"method/allocation": "uniform"},
    {"method/sampling": "plain"},
    {"method/reward_terms@method.reward_terms.verifier": "verifier"},
    {"method/advantage": "group_normalised"},
    {"method/minibatch": "shuffled"},
    {"method/ratio": "token"},
    {"method/surrogate": "ppo_clip"},
    {"method/aggregate": "rollout_mean"},
    {"method": ["grpo"]},
]


@pytest.fixture(scope="session")
def method_node() -> Callable[..., dict[str, Any]]:
    """Frozen JSON of the ``method`` node for some overrides."""
    ConfigStore.instance().store(name="method_only", node={"defaults": _METHOD_ONLY})

    @cache
    def node(*overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("method_only", list(overrides)).method
        frozen = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
        assert isinstance(frozen, dict)
        return {str(key): value for key, value in json.loads(json.dumps(frozen)).items()}

    return node


@pytest.fixture(scope="session")
def method_of(method_node: Callable[..., dict[str, Any]]) -> Callable[..., Method]:
    """The method that some overrides give."""
    return lambda *overrides: build_method(method_node(*overrides))


@pytest.fixture(scope="session")
def batch_of() -> Callable[..., Batch]:
    """Rollouts worked out by hand: old log-probabilities 0, float64, the limit is the longest length."""

    def make(
        rewards: Sequence[float],
        *,
        lengths: Sequence[int],
        prompt_of: Sequence[int] | None = None,
        **columns: Sequence[float],
    ) -> Batch:
        batch = pack(
            [[1]] * len(rewards),
            completions=[[2] * length for length in lengths],
            prompt_of=prompt_of or [0] * len(rewards),
            accuracy=rewards,
            truncated=[False] * len(rewards),
            max_tokens=max(lengths),
        )
        values = torch.tensor(rewards, dtype=torch.float64)
        batch = replace(batch, accuracy=values, rewards=values)
        given = {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}
        return batch.with_columns(old_logprobs=torch.zeros(batch.num_tokens, dtype=torch.float64), **given)

    return make


@pytest.fixture(scope="session")
def pull() -> Callable[..., Tensor]:
    """Gradient [N] by the log-probabilities of a method on a batch where the token ratios are as given."""

    def gradient(method: Method, batch: Batch, ratios: Sequence[float]) -> Tensor:
        logprobs = batch.columns["old_logprobs"] + torch.tensor(ratios, dtype=torch.float64).log()
        now = Policies(logprobs, torch.zeros_like(logprobs))
        return loss_and_gradient(method, prepare(method, batch), now)[1]

    return gradient
