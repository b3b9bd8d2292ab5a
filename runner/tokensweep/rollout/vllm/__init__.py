"""Rollouts by vLLM, in a server of its own: beside the trainer on one machine, or on other nodes.

The trainer's process never imports vLLM on a CPU: it talks HTTP, over a Unix socket where it started the
server itself. Importing this package registers the option ``rollout=vllm``.
"""

from tokensweep.rollout.vllm.engine import VllmEngine
from tokensweep.rollout.vllm.errors import EngineError, ParityError

__all__ = ["EngineError", "ParityError", "VllmEngine"]
