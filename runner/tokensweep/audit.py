"""The command ``tokensweep audit``."""

from __future__ import annotations

from collections.abc import Sequence


def audit_command(arguments: Sequence[str]) -> None:
    raise ValueError(f"audit is not there yet, got {list(arguments)}")
