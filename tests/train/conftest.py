"""A run that is small enough to train in a fraction of a second."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokensweep.methods
import tokensweep.models
import tokensweep.problems
import tokensweep.rollout  # noqa: F401  the imports register components

sys.path.append(str(Path(__file__).parent))
importlib.import_module("easy_task")  # registers data=test_even

_TINY = {"hidden": 16, "layers": 2, "heads": 2, "head_dim": 8, "mlp": 32, "steps": 0}  # random weights
_GRPO = {
    "name": "grpo",
    "updates_per_batch": 1,
    "allocation": {"_component_": "method/allocation/uniform"},
    "reward_terms": {"verifier": {"_component_": "method/reward_terms/verifier"}},
    "advantage": {"_component_": "method/advantage/group_normalised"},
    "minibatch": {"_component_": "method/minibatch/shuffled"},
    "ratio": {"_component_": "method/ratio/token"},
    "surrogate": {"_component_": "method/surrogate/ppo_clip"},
    "aggregate": {"_component_": "method/aggregate/token_mean"},
}


def make_config(**changes: Any) -> dict[str, Any]:
    """The frozen config of a small run; keyword arguments replace keys, dotted ones as ``batch__prompts``."""
    config: dict[str, Any] = {
        "seed": 0,
        "steps": 2,
        "method": {key: dict(value) if isinstance(value, dict) else value for key, value in _GRPO.items()},
        "model": {"_component_": "model/tiny", **_TINY},
        "data": {"_component_": "data/test_even"},
        "rollout": {"_component_": "rollout/torch"},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 6, "stop": []},
        "batch": {"prompts": 3, "group_size": 4, "micro_tokens": 20},
        "optim": {
            "lr": 1e-2,
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "grad_clip": 1.0,
            "warmup_steps": 0,
        },
        "checkpoint": {"every": 2, "keep": 1},
        "store_rollouts": {"every": 0, "share": 0.0},
        "compute": {"threads": 1, "device": "cpu", "dtype": "float32"},
        "store": "",
    }
    for path, value in changes.items():
        *parents, key = path.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[key] = value
    return config


@pytest.fixture(scope="session")
def small_config() -> Callable[..., dict[str, Any]]:
    """Makes configs of small runs, see ``make_config``."""
    return make_config
