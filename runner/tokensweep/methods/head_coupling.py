"""Head coupling: how far one token's push moves another token, through the output matrix alone.

Source: Cheng et al., "The cancellation hypothesis", arXiv:2605.08666 v1, whose abstract says that tokens move
with each other, mainly identical ones of low confidence; all definitions here are our derivation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.probe import Probe, States
from tokensweep.loss.tables import Batch
from tokensweep.methods.token_flips import outcome_sign
from tokensweep.registry import component


def head_coupling(states: States) -> Tensor:
    """``K(t, j) = <grad log p(y_t), grad log p(y_j)>`` with respect to the output matrix, [m, m].

    ``<h_t, h_j> <g_t, g_j>`` with g the pull of a token on the products; for plain logits that is
    ``<h_t, h_j> ([y_t = y_j] - p_t(y_j) - p_j(y_t) + <p_t, p_j>)``.
    """
    return (states.hidden @ states.hidden.t()) * (states.pull @ states.pull.t())


@component("method/probes", "head_coupling")
@dataclass(frozen=True)
class HeadCoupling(Probe):
    """How strongly the tokens of one group are coupled, and what that does to a step along the gradient.

    Reads at most ``num_tokens`` tokens, drawn from one prompt with right and wrong rollouts, under the policy
    before the update. With K the coupling by the output matrix, A the advantage and w the token weight, a
    small step changes the log-probability of t by ``w_t A_t K(t, t) + sum_(j != t) w_j A_j K(t, j)``:

        identical_low, identical_high, different   mean |K| over pairs t != j of one token id, both of low or
                                                   both of high confidence, or of two ids
        coupled_fraction     absolute change that comes from the other tokens, of that and the tokens' own
        reversed_fraction    tokens with an advantage whose change has not its sign

    Source: the paper's abstract; the definitions are ours. Departures: the coupling through the rest of the
    model is left out, tokens count equally, as in a token mean, and pairs across prompts are left out.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"old_logprobs", "uniform"})

    num_tokens: int = 256
    confident: float = 0.5

    def __post_init__(self) -> None:
        if self.num_tokens < 2 or not 0 < self.confident < 1:
            raise ValueError(
                "num_tokens must be at least 2 and confident in (0, 1), got "
                f"{self.num_tokens} and {self.confident:g}"
            )

    def rows(self, batch: Batch) -> Tensor:
        """Tokens of the mixed group that holds the smallest random number, those of the smallest ones."""
        mixed = (outcome_sign(batch) != 0)[batch.rollout_of].nonzero().squeeze(1)
        if not mixed.numel():
            return mixed
        lots = batch.columns["uniform"]
        group_of = batch.prompt_of[batch.rollout_of]
        chosen = group_of[mixed[lots[mixed].argmin()]]
        of_group = (group_of == chosen).nonzero().squeeze(1)
        return of_group[lots[of_group].argsort()[: self.num_tokens]].sort().values

    def __call__(self, batch: Batch) -> Mapping[str, float]:
        """Nothing: all that it tells is of the states."""
        return {}

    def of_states(self, batch: Batch, states: States) -> Mapping[str, float]:
        """See the class."""
        coupling = head_coupling(states)
        other = ~torch.eye(len(states.rows), dtype=torch.bool, device=coupling.device)
        ids = batch.token_ids[batch.trained[states.rows]]
        same = (ids[:, None] == ids[None, :]) & other
        low = batch.columns["old_logprobs"][states.rows] < math.log(self.confident)
        size = coupling.abs()
        force = (batch.columns["advantages"] * batch.columns["weights"])[states.rows].to(coupling.dtype)
        own = force * coupling.diagonal()
        coupled = torch.where(other, coupling, 0.0) @ force
        moved = (own + coupled).sign()
        total = float(own.abs().sum() + coupled.abs().sum())
        told = {
            "identical_low": _mean(size, same & low[:, None] & low[None, :]),
            "identical_high": _mean(size, same & ~low[:, None] & ~low[None, :]),
            "different": _mean(size, other & ~same),
            "coupled_fraction": float(coupled.abs().sum()) / total if total else math.nan,
            "reversed_fraction": _mean((moved != force.sign()).double(), force != 0),
        }
        return {name: value for name, value in told.items() if not math.isnan(value)}


def _mean(x: Tensor, among: Tensor) -> float:
    return float(x[among].double().mean())
