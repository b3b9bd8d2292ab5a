"""An entropy bonus in the loss, with a fixed coefficient or one that keeps the entropy at a target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from tokensweep.loss.slots import TOKEN_LOCAL, Guarantee, Memory, Regularizer
from tokensweep.loss.tables import Batch, Unit, View
from tokensweep.registry import component


@component("method/regularizers", "entropy_bonus")
@dataclass(frozen=True)
class EntropyBonus(Regularizer):
    """``-coef`` times the mean entropy of the current policy over the tokens of the mini-batch, scalar.

    The entropy is that of the full distribution at the sampling temperature, in nats, with its gradient.
    Token weights do not matter here.
    Source: the entropy regulariser of policy gradients (Williams and Peng, 1991; A3C, arXiv:1602.01783). The
    value of ``coef`` is a common one and no paper's. Departure: none.
    """

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL - {Guarantee.signal_only}
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})
    differentiates_entropy: ClassVar[bool] = True

    coef: float = 0.001
    unit: Unit = Unit.token

    def __post_init__(self) -> None:
        if self.coef < 0:
            raise ValueError(f"coef must be at least 0, got {self.coef:g}")

    def __call__(self, view: View) -> Tensor:
        return -self.coef * view.mean(view.entropy, self.unit)


@component("method/regularizers", "entropy_target")
@dataclass(frozen=True)
class EntropyTarget(EntropyBonus):
    """An entropy bonus whose coefficient rises while the entropy is at or below ``target``, else falls.

    With e the mean entropy of the policy that sampled the batch: the batch is trained with ``c`` if
    ``e <= target``, else without a bonus; then ``c`` moves by ``step`` up or down within [0, highest].
    ``coef`` is the first ``c``. It is remembered in the checkpoint and shown as ``memory/...coef``.
    ``highest`` 0 is the method without a bonus.
    Source: He et al., Skywork-OR1, arXiv:2505.22312, adaptive entropy control: target 0.2 nats, step 0.005
    and a highest of 1 as in TRL's implementation of it; the released scripts have step 1e-4 and highest 0.005
    (preset ``entropy_target_as_released``). Departure: adapted once per optimiser batch; TRL adapts it after
    every optimiser step, which is the same for one update per batch, as both recommend.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entropy", "old_entropy"})

    coef: float = 0.0
    target: float = 0.2  # nats
    step: float = 0.005
    highest: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target < 0 or self.step <= 0 or self.highest < self.coef:
            raise ValueError(
                "target must be at least 0 nats, step above 0 and highest at least coef, got "
                f"{self.target:g}, {self.step:g} and {self.highest:g} with coef {self.coef:g}"
            )

    def init(self) -> Memory:
        """The first coefficient."""
        return {"coef": self.coef}

    def adapt(self, memory: Memory, batch: Batch) -> tuple[EntropyTarget, Memory]:
        """The bonus for this batch, and the coefficient for the next one."""
        below = float(batch.columns["old_entropy"].double().mean()) <= self.target
        acting = replace(self, coef=memory["coef"] if below else 0.0)
        moved = memory["coef"] + (self.step if below else -self.step)
        return acting, {"coef": min(max(moved, 0.0), self.highest)}
