"""A comparison of a policy with transformers' own forward on a few tokens, when it is loaded.

The policy takes a model apart: packed attention instead of the model's, a head of known form instead of its
last lines. Whatever a model does beyond that shows here, as an error and not as wrong log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokensweep.models.head import Head

_TOKENS = 4
_WINDOW = 2  # every window is narrowed to this: no probe could be longer than a real one
_LOUDEST = 100.0  # the largest product of states and head is made this large: small ones pass under any cap
_SILENT = 1e-3  # products below this are not brought up to it: zeros can not be
_TOLERANCE = 1e-3  # of the largest logit: float32 noise is about 1e-6, a cap or scale far above
_HALF_TOLERANCE = 0.05  # half precision rounds coarsely


@dataclass(frozen=True, eq=False)
class Probe:
    """What transformers itself makes of the first tokens of the vocabulary."""

    logits: Tensor  # [T, V] float32
    gain: float  # what the products of states and head were multiplied by

    @staticmethod
    @torch.no_grad()
    def of(model: Any) -> Probe:
        """Taken from a model as it was loaded, with its own attention; broken weights raise ValueError."""
        gain = 1.0

        def louder(module: torch.nn.Module, args: Any, products: Tensor) -> Tensor:
            nonlocal gain
            gain = _LOUDEST / max(float(products.abs().max()), _SILENT)
            return products * gain

        hook = model.get_output_embeddings().register_forward_hook(louder)
        try:
            with _narrow_windows(model):
                logits = model(input_ids=_ids(model)[None], use_cache=False).logits[0]
        finally:
            hook.remove()
        if not bool(logits.isfinite().all()):
            _refuse_broken(model)
        return Probe(logits.float(), gain)

    @torch.no_grad()
    def check(
        self, model: Any, *, head: Head, states: Callable[[Tensor, Tensor], Tensor], folder: Path
    ) -> None:
        """Raises ValueError if ``head`` on the states [T, H] of a packed forward gives something else."""
        ids = _ids(model)
        try:
            with _narrow_windows(model):
                hidden = states(ids, torch.tensor([0, len(ids)]))
        except ValueError as error:
            raise ValueError(f"{folder}: {error}: choose another architecture") from error
        products = torch.nn.functional.linear(hidden, head.weight, head.bias)
        ours = head.finish(products * self.gain).float()
        limit = _TOLERANCE if hidden.dtype == torch.float32 else _HALF_TOLERANCE
        worst = float((self.logits - ours).abs().max()) / max(float(self.logits.abs().max()), _SILENT)
        if not worst <= limit:  # nor NaN
            raise ValueError(
                f"{folder}: logits must be scale * softcap(hidden @ weight.T + bias) of causal attention, "
                f"but those of {type(model).__name__} differ by {worst:.1%} of the largest (with scale "
                f"{head.scale:g}, softcap {head.softcap}): choose another architecture"
            )


def _refuse_broken(model: Any) -> None:
    """Raise ValueError naming the weights that are no numbers, where that is why the logits are none."""
    broken = [name for name, tensor in model.named_parameters() if not bool(tensor.isfinite().all())]
    if broken:
        rest = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise ValueError(
            f"{model.name_or_path} must hold finite weights, but {broken[0]}{rest} has NaN or infinity: "
            "its training diverged or its file is damaged, so take another checkpoint"
        )


def _ids(model: Any) -> Tensor:
    weight = model.get_output_embeddings().weight
    return torch.arange(min(_TOKENS, len(weight)), device=weight.device)


@contextmanager
def _narrow_windows(model: Any) -> Iterator[None]:
    """Every sliding window of the model, in configs and layers, is of two tokens inside."""
    owners = [model.config.get_text_config(), *model.modules()]
    wide = [(owner, owner.sliding_window) for owner in owners if _has_window(owner)]
    for owner, _ in wide:
        owner.sliding_window = _WINDOW
    try:
        yield
    finally:
        for owner, window in wide:
            owner.sliding_window = window


def _has_window(owner: Any) -> bool:
    return isinstance(getattr(owner, "sliding_window", None), int)
