"""What can go wrong with an engine in another process."""

from __future__ import annotations


class EngineError(RuntimeError):
    """The engine does not start, does not answer, or answers what cannot be used."""


class EngineMemoryError(EngineError):
    """The engine does not start because there is too little memory."""


class EngineLostError(EngineError):
    """The server is gone or its connection broke; what it had not answered is to be asked again."""


class ParityError(EngineError):
    """The engine and the trainer disagree about the log-probabilities of the same tokens."""
