"""The order of the test files: long ones first, so that none is left alone last when processes share them."""

from __future__ import annotations

import pytest

_WAIT = ("vllm", "ui")  # folders whose tests wait for servers and browsers


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that wait, then other slow ones first; xdist hands files out in this order."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not any(part in item.path.parts for part in _WAIT), item.path not in slow))
