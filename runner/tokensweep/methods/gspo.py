"""GSPO: the ratio, and with it the clip, is that of the whole rollout.

Source: Zheng et al., arXiv:2507.18071 (``paper`` below); implementations read: verl, TRL, ms-swift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tokensweep.loss.slots import ROLLOUT_LOCAL, Guarantee, Ratio
from tokensweep.loss.tables import View
from tokensweep.registry import component


def mean_log_ratio(view: View) -> Tensor:
    """Mean log ratio of each token's rollout, weighted by the token weights, [n] nats."""
    total = view.by_rollout(view.weights)
    mean = view.by_rollout(view.weights * view.log_ratio) / torch.where(total > 0, total, 1.0)
    return mean[view.rollout_of]


@component("method/ratio", "sequence")
@dataclass(frozen=True)
class SequenceRatio(Ratio):
    """Log of the geometric mean of a rollout's token ratios, the same for all its tokens, [n] nats.

    ``log s_i = 1/|o_i| sum_t log r_t``: the likelihood ratio of the rollout to the power 1 over its length.
    Source: the paper, its sequence-level ratio. Departure: with token weights the weighted mean, so a token
    of weight 0 has no part in it. verl caps the log ratio at 10, here each token's is held within ±20 nats.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = ROLLOUT_LOCAL

    def __call__(self, view: View) -> Tensor:
        return mean_log_ratio(view)


@component("method/ratio", "sequence_token")
@dataclass(frozen=True)
class SequenceTokenRatio(Ratio):
    """Value of the sequence ratio, gradient of the token's own log-probability, [n] nats.

    ``s_it = sg(s_i) pi / sg(pi)`` with ``sg`` no gradient. Equal to ``sequence`` in value and gradient when
    the advantage is the same for all tokens of a rollout; where it differs, each token pulls by its own.
    Source: the paper, GSPO-token. Departure: none.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = ROLLOUT_LOCAL

    def __call__(self, view: View) -> Tensor:
        return mean_log_ratio(view).detach() + view.log_ratio - view.log_ratio.detach()
