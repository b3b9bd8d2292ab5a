"""A policy of random weights; evaluations here draw their texts from an engine that never reads it."""

from __future__ import annotations

import pytest

from tokensweep.models.policy import Policy
from tokensweep.models.tiny import TinyModel
from tokensweep.problems.ops import Ops


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    model = TinyModel(hidden=8, layers=1, heads=1, head_dim=8, mlp=8, steps=0)
    return Policy(model.materialise(data=Ops(), cache=tmp_path_factory.mktemp("models")))
