"""The order of the test files: those that wait for clusters and servers first, so none is left alone last."""

from __future__ import annotations

import pytest

_SLOW_FOLDERS = ("slurm", "vllm", "ui")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow files first; xdist hands files out in this order where it is told not to reorder."""
    items.sort(key=lambda item: not any(folder in item.path.parts for folder in _SLOW_FOLDERS))
