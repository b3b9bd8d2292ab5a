"""Token flips: which tokens an update really boosted, against the sign of the rollouts that they are in.

Source: Cheng et al., "The cancellation hypothesis", arXiv:2605.08666 v1, of which the abstract and the titles
of the sections are known; all definitions here are reconstructions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.probe import Probe
from tokensweep.loss.tables import Batch
from tokensweep.registry import component


def outcome_sign(batch: Batch) -> Tensor:
    """1 for a rollout above its group's mean reward, -1 below, 0 at it and in groups of one reward, [R]."""
    return torch.where(batch.equal_rewards[batch.prompt_of], 0.0, batch.centred_rewards).sign()


@component("method/probes", "token_flips")
@dataclass(frozen=True)
class TokenFlips(Probe):
    """How the log-probabilities of trained tokens changed over the updates of the batch, by kind of token.

    A token is positive or negative as its rollout, see :func:`outcome_sign`; those of groups without a signal
    are left out. With D the new minus the old log-probability in nats:

        positive/boosted_fraction, negative/...   tokens with D > 0, of the positive, of the negative ones
        flipped_fraction                          tokens whose D has not the sign of their rollout
        <kind>/<confidence>/token_fraction        tokens of the cell, of all
        <kind>/<confidence>/boosted_fraction      tokens with D > 0, of the cell's
        <kind>/<confidence>/change                mean D of the cell, nats

    ``kind`` is shared where the same token id is in a positive and in a negative rollout of the group, else
    positive_only or negative_only; ``confidence`` is low where the old policy gave the token less than
    ``confident``, else high. A number without tokens is left out.
    Source: the paper's abstract; the definitions and ``confident`` are reconstructions. Departure: the change
    is that of all updates of an optimiser batch, of which the paper looks at one: the same at one update.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"old_logprobs", "new_logprobs"})

    confident: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.confident < 1:
            raise ValueError(f"confident must be in (0, 1), got {self.confident:g}")

    def __call__(self, batch: Batch) -> Mapping[str, float]:
        sign = outcome_sign(batch)[batch.rollout_of]
        there = sign != 0
        old = batch.columns["old_logprobs"]
        change = batch.columns["new_logprobs"] - old
        boosted = (change > 0).double()
        told = {
            "positive/boosted_fraction": _mean(boosted, sign > 0),
            "negative/boosted_fraction": _mean(boosted, sign < 0),
            "flipped_fraction": _mean((change.sign() != sign).double(), there),
        }
        shared = there & _shared(batch, sign)
        kinds = {
            "shared": shared,
            "positive_only": (sign > 0) & ~shared,
            "negative_only": (sign < 0) & ~shared,
        }
        low = old < math.log(self.confident)
        for kind, of_kind in kinds.items():
            for confidence, cell in (("low", of_kind & low), ("high", of_kind & ~low)):
                where = f"{kind}/{confidence}"
                told[f"{where}/token_fraction"] = _mean(cell.double(), there)
                told[f"{where}/boosted_fraction"] = _mean(boosted, cell)
                told[f"{where}/change"] = _mean(change, cell)
        return {name: value for name, value in told.items() if not math.isnan(value)}


def _mean(x: Tensor, among: Tensor) -> float:
    """Mean of ``x`` [N] over the tokens ``among`` [N] bool; NaN where there are none."""
    return float(x[among].double().mean())


def _shared(batch: Batch, sign: Tensor) -> Tensor:
    """Tokens [N] whose id occurs in a positive and in a negative rollout of their group, whatever its own."""
    ids = batch.token_ids[batch.trained]
    key = batch.prompt_of[batch.rollout_of] * (int(ids.max()) + 1) + ids
    _, of = key.unique(return_inverse=True)  # type: ignore[no-untyped-call]  # untyped in torch
    count = int(of.max()) + 1
    positive = torch.bincount(of[sign > 0], minlength=count) > 0
    negative = torch.bincount(of[sign < 0], minlength=count) > 0
    return (positive & negative)[of]
