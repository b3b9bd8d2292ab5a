"""The peers must be there, in the versions that the comparisons name: nothing here is ever skipped."""

from __future__ import annotations

import importlib.metadata

_NEEDED = {
    "trl": ("1.16.0", "pip install -c constraints.txt -e '.[peers]'"),
    "verl": ("0.9.1", "pip install --no-deps verl==0.9.1  # next to the extra peers"),
}


def _check(name: str) -> None:
    version, command = _NEEDED[name]
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != version:
        raise RuntimeError(f"{name} must be {version} to compare losses with it, got {found}: {command}")


for _name in _NEEDED:
    _check(_name)
