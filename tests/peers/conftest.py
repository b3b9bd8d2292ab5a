"""What every comparison needs: the peers, and a line in the table."""

from __future__ import annotations

import importlib.metadata

import pytest

_NEEDED = {
    "trl": ("1.16.0", "pip install -e '.[peers]'"),
    "verl": ("0.9.1", "pip install -e '.[peers]' && pip install --no-deps verl==0.9.1"),
}

for _name, (_version, _command) in _NEEDED.items():
    try:
        _found = importlib.metadata.version(_name)
    except importlib.metadata.PackageNotFoundError:
        _found = "none"
    if _found != _version:
        pytest.fail(f"{_name} must be {_version} to compare losses with it, got {_found}: {_command}", pytrace=False)
