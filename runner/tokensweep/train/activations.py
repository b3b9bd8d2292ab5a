"""Activation checkpointing: a layer keeps its input and is run again in the backward pass.

Memory for activations falls to one state per token and layer; the forward is paid twice. The second run gives
the bits of the first (no dropout, same number format, same attention), so gradients do not change and the
setting is no part of a run's identity.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_layers(model: Any) -> None:
    """Make every decoder layer of a transformers model keep its input only, wherever a gradient is wanted.

    transformers' own switch works in training mode only, where models also drop out and refuse a cache; ours
    stay in evaluation mode. Raises ValueError for a model that does not mark its layers.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"compute.activation_checkpointing must have layers that transformers can run again, but "
            f"{type(model).__name__} has none: leave it off, or choose another architecture"
        )
    for layer in layers:
        layer.forward = partial(_kept_by_input, layer.forward)


def _kept_by_input(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What ``forward`` gives; nothing that it computes is kept for the backward pass."""
    if not torch.is_grad_enabled():  # rollouts, which come with a cache, and scores of the old policy
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
