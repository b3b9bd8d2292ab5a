"""A run that stored its rollouts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.analysis.tokens.made_up import train_run


@pytest.fixture(scope="session")
def trained_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the run ``fork`` of forking tokens and the run ``dense`` of GRPO; not to be changed."""
    store = tmp_path_factory.mktemp("store")
    train_run(store, "fork-1", "method=forking_tokens")
    train_run(store, "dense-1", "method=grpo")
    return store
