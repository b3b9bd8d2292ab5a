"""Engines that generate rollouts. Importing the package registers the options of the group ``rollout``."""

from tokensweep.rollout import embedded, fake, reference, vllm
from tokensweep.rollout.needs import Describing, Drawing, Share
from tokensweep.rollout.protocol import Engine, Request, Rollout, SamplingSpec

__all__ = [
    "Describing",
    "Drawing",
    "Engine",
    "Request",
    "Rollout",
    "SamplingSpec",
    "Share",
    "embedded",
    "fake",
    "reference",
    "vllm",
]
