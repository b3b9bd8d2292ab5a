"""Methods as their presets compose them, without the rest of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

import tokensweep.config
import tokensweep.methods  # noqa: F401  registers the components
from tokensweep.loss.method import Method, build_method
from tokensweep.paths import conf_dir

# conf/train.yaml without model, data and rollout engine: the neutral choice in every single slot
_METHOD_ONLY: list[Any] = [
    "run_schema",
    {"method/allocation": "uniform"},
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
