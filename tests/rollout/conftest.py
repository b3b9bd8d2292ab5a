"""A small random policy for the tests of engines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tokensweep.models.policy import Policy
from tokensweep.models.tiny import TinyModel
from tokensweep.problems.ops import Ops

_SHARPEN = 15.0  # fresh weights give nearly uniform distributions, in which a mistake would not show


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without warm start."""
    model = TinyModel(hidden=24, layers=2, heads=3, head_dim=8, mlp=40, steps=0)
    return model.materialise(data=Ops(size=1, steps=1), cache=tmp_path_factory.mktemp("models"))


@pytest.fixture
def policy(folder: Path) -> Policy:
    """The model with sharpened distributions; every test may change its weights."""
    policy = Policy(folder)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(_SHARPEN)
    return policy
