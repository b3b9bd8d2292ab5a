"""Models that papers used and nobody else can have: choosing one says so."""

from __future__ import annotations

from dataclasses import dataclass

from tokensweep.registry import component


@component("model", "unreleased")
@dataclass(frozen=True)
class UnreleasedModel:
    """Refused with ``reason`` wherever it is chosen: a paper's scale that is not run."""

    reason: str

    def __post_init__(self) -> None:
        raise ValueError(f"not run: {self.reason}")
