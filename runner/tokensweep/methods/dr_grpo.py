"""Dr. GRPO: neither the group's standard deviation nor a rollout's own length scales the gradient.

Source: Liu et al., arXiv:2503.20783 (``paper`` below) and the authors' code (``code``). Its advantage, the
centred reward, is ``group_normalised`` with ``std: none``, option ``centred``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokensweep.loss.slots import TOKEN_LOCAL, Aggregate, Guarantee
from tokensweep.loss.tables import View
from tokensweep.registry import component


@component("method/aggregate", "constant_length")
@dataclass(frozen=True)
class ConstantLength(Aggregate):
    """Sum over tokens, divided by rollouts times a constant: ``1/R sum_i 1/L sum_t w_t x_t``.

    R counts the rollouts of the mini-batch. ``length`` is L in tokens; None takes the sampling limit of the
    run, which is the generation budget that the paper means.
    Source: the paper's corrected objective; the code divides by the generation budget. Departure: none. verl
    falls back to the length of the padded batch, which is no constant.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    length: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ValueError(f"length must be at least 1 token, got {self.length}")

    def __call__(self, view: View, objective: Tensor) -> Tensor:
        length = view.max_tokens if self.length is None else self.length
        return (view.weights * objective).sum() / (length * view.totals.rollouts)
