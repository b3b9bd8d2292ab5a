"""Which weights of a model a run trains: all of them, or low-rank adapters beside frozen ones.

The choice makes the policy (``trainable=full``, ``trainable=lora``); everything else asks the policy: what
the optimiser moves (``Policy.trained``), what a checkpoint holds (``Policy.save``) and what an engine in
another process loads (``Policy.merged_weights``).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tokensweep.registry import build, component

if TYPE_CHECKING:
    import torch

    from tokensweep.models.policy import Policy

ALL_LINEAR = "all-linear"  # peft's word for every linear layer but the head


class Trainable(Protocol):
    """Makes the policy of a run."""

    def policy(
        self, base: Path, *, checkpoint: Path | None, seed: int, device: str | torch.device = "cpu"
    ) -> Policy:
        """The policy that starts from the model in ``base``, or goes on from a checkpoint of its run.

        ``seed`` is the run's. Raises ValueError for a model that cannot be trained like this, and for a
        checkpoint that does not belong to ``base``.
        """
        ...


@component("trainable", "full")
@dataclass(frozen=True)
class Full:
    """All weights."""

    def policy(
        self, base: Path, *, checkpoint: Path | None, seed: int, device: str | torch.device = "cpu"
    ) -> Policy:
        """The model of the checkpoint if there is one, else of ``base``; nothing is drawn."""
        from tokensweep.models.policy import Policy

        return Policy(checkpoint or base, device=device)


@component("trainable", "lora")
@dataclass(frozen=True)
class Lora:
    """Low-rank adapters: each target computes ``x W^T + scale * x A^T B^T``, and only A and B are trained.

    ``scale`` is alpha / rank, with ``rank_stabilised`` alpha / sqrt(rank) (arXiv:2312.03732). A is drawn
    uniformly within 1 / sqrt(inputs), B is 0: a run starts from the base model's own outputs. There is no
    dropout: old and current log-probabilities must come from one function.
    Source: arXiv:2106.09685 v2, section 4.1; A as the authors' code (loralib/layers.py) draws it. Departure:
    all linear layers are adapted, not only those of the attention. Experts that a model holds as one tensor
    per layer are none and stay as they are. ``optim.lr`` is not adapted; adapters usually want a larger one.
    """

    rank: int = 32
    alpha: int = 32
    targets: tuple[str, ...] = (ALL_LINEAR,)  # or the names of linear layers, such as q_proj
    rank_stabilised: bool = False

    def __post_init__(self) -> None:
        for name, value in (("rank", self.rank), ("alpha", self.alpha), ("targets", len(self.targets))):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if ALL_LINEAR in self.targets and len(self.targets) > 1:
            raise ValueError(f"targets must be {ALL_LINEAR} alone or names of layers, got {self.targets}")
        if importlib.util.find_spec("peft") is None:
            raise ValueError("trainable=lora must have the package peft: pip install 'tokensweep[lora]'")

    def policy(
        self, base: Path, *, checkpoint: Path | None, seed: int, device: str | torch.device = "cpu"
    ) -> Policy:
        """The model of ``base`` with new adapters, or with those of the checkpoint."""
        from tokensweep.models.lora import LoraPolicy

        return LoraPolicy(base, lora=self, checkpoint=checkpoint, seed=seed, device=device)


def trainable_of(config: Mapping[str, Any]) -> Trainable:
    """What a frozen config trains; everything where it does not say."""
    trainable: Trainable = build(config["trainable"]) if config.get("trainable") else Full()
    return trainable
