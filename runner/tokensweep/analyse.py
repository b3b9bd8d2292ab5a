"""The command ``tokensweep analyse``."""

from __future__ import annotations

from collections.abc import Sequence


def analyse_command(arguments: Sequence[str]) -> None:
    raise ValueError(f"analyse is not there yet, got {list(arguments)}")
