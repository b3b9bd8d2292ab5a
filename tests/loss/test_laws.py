"""The laws notice who breaks them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import LAWS
from tokensweep.loss.method import Method
from tokensweep.loss.slots import (
    TOKEN_LOCAL,
    Advantage,
    Aggregate,
    Guarantee,
    Policy,
    Surrogate,
    TokenWeight,
)
from tokensweep.loss.tables import Batch, View
from tokensweep.methods.forking_tokens import SelectedMeanMicro
from tokensweep.methods.grpo import PPOClip
from tokensweep.methods.holderpo import HolderRatio


@dataclass(frozen=True)
class MeanOfMeans(Aggregate):
    """Divides by the tokens of the micro-batch and yet claims to add up."""

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    def __call__(self, view: View, objective: Tensor) -> Tensor:
        return (view.weights * objective).sum() / view.lengths.sum()


@dataclass(frozen=True)
class LogLikelihood(Surrogate):
    """Learns without an advantage and yet claims to need a signal."""

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        return view.logprobs

    def clipped(self, view: View, log_ratio: Tensor) -> Tensor:
        return torch.zeros_like(log_ratio, dtype=torch.bool)


@dataclass(frozen=True)
class LocalHolder(HolderRatio):
    """Claims to read one token at a time."""

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL


@dataclass(frozen=True)
class LocalSelectedMean(SelectedMeanMicro):
    """Claims that a left-out token is not missed in the denominator."""

    guarantees: ClassVar[frozenset[Guarantee]] = TOKEN_LOCAL


@dataclass(frozen=True)
class Unbounded(PPOClip):
    """Exponentiates whatever it gets."""

    def __call__(self, view: View, log_ratio: Tensor) -> Tensor:
        return (view.logprobs - view.columns["old_logprobs"]).exp() * view.advantages


@dataclass(frozen=True)
class ByPromptNumber(Advantage):
    """Takes the number of a prompt for a fact about it."""

    def __call__(self, batch: Batch) -> Tensor:
        return (batch.rewards * (1 + batch.prompt_of))[batch.rollout_of]


@dataclass(frozen=True)
class Writes(TokenWeight):
    """Writes into a column of the batch."""

    policy: Policy = Policy.old

    def __call__(self, view: View) -> Tensor:
        return view.columns["old_entropy"].add_(1).clamp(max=1)


@pytest.mark.parametrize(
    ("law", "change"),
    [
        ("micro_batches_add_up", {"aggregate": MeanOfMeans()}),
        ("equal_rewards_give_no_gradient", {"surrogate": LogLikelihood()}),
        ("left_out_rows_change_nothing", {"surrogate": LogLikelihood()}),
        ("left_out_rows_change_nothing", {"ratio": LocalHolder()}),
        ("left_out_rows_change_nothing", {"aggregate": LocalSelectedMean()}),
        ("extreme_ratios_stay_finite", {"surrogate": Unbounded()}),
        ("order_and_names_do_not_matter", {"advantage": ByPromptNumber()}),
        ("inputs_stay_untouched", {"token_weights": {"writes": Writes()}}),
        ("json_round_trip_keeps_the_gradient", {"surrogate": Unbounded()}),  # it is not registered
    ],
)
def test_a_law_notices_who_breaks_it(law: str, change: dict[str, object], grpo: Method) -> None:
    with pytest.raises(AssertionError, match=r"must|not close|was changed|not equal"):
        LAWS[law](replace(grpo, **change))  # type: ignore[arg-type]  # mixed types
    LAWS[law](grpo)
