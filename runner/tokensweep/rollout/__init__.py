"""Engines that generate rollouts. Importing the package registers the options of the group ``rollout``."""

from tokensweep.rollout import embedded, fake, reference, vllm
from tokensweep.rollout.protocol import Engine, Request, Rollout, SamplingSpec

__all__ = ["Engine", "Request", "Rollout", "SamplingSpec", "embedded", "fake", "reference", "vllm"]
