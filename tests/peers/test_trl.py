"""Our losses give TRL's numbers: value and gradient, on random tables with ratios beyond every bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from tests.peers.tables import Case
from tests.peers.trl_losses import grpo

from tokensweep.loss.tables import Batch

STD = "method/advantage=sample_std method.advantage.eps=1e-4"
WIDE: dict[str, Any] = {"epsilon_high": 0.28}  # clip-higher


def kept_share(batch: Batch) -> float:
    """What 20 % of the tokens, rounded up, is of all."""
    return math.ceil(batch.num_tokens / 5) / batch.num_tokens


CASES = (
    Case(
        ours=f"method=grpo method.updates_per_batch=2 {STD}",
        peer="GRPO, loss_type grpo",
        loss=grpo(loss_type="grpo"),
    ),
    Case(
        ours=f"method=dapo {STD}",
        peer="GRPO, loss_type dapo",
        loss=grpo(loss_type="dapo", **WIDE),
    ),
    Case(
        ours=f"method=dapo {STD} method/aggregate=selected_mean_micro",
        peer="GRPO, loss_type bnpo",
        loss=grpo(loss_type="bnpo", **WIDE),
        difference="both take means of micro-batches; token_mean does not",
    ),
    Case(
        ours=f"method=dapo {STD} method.advantage.std=none",
        peer="GRPO, loss_type dapo, scale_rewards none",
        loss=grpo(loss_type="dapo", scale_rewards="none", **WIDE),
    ),
    Case(
        ours=f"method=cispo {STD}",
        peer="GRPO, loss_type cispo",
        loss=grpo(loss_type="cispo", epsilon_high=5.0),
    ),
    Case(
        ours="method=holderpo method.ratio.p=0 method.advantage.eps=1e-4",
        peer="GRPO, loss_type grpo, sequence ratio (GSPO)",
        loss=grpo(loss_type="grpo", importance_sampling_level="sequence"),
    ),
    Case(
        ours="method=holderpo_token method.aggregate.p=1 method.advantage.eps=1e-4",
        peer="GRPO, loss_type grpo",
        loss=grpo(loss_type="grpo"),
    ),
    Case(
        ours=f"method=forking_tokens_as_released method/aggregate=token_mean {STD}",
        peer="GRPO, loss_type dapo, top_entropy_quantile 0.2",
        loss=grpo(loss_type="dapo", top_entropy_quantile=0.2, **WIDE),
    ),
    Case(
        ours=f"method=forking_tokens_as_released {STD}",
        peer="GRPO, loss_type dapo, top_entropy_quantile 0.2",
        loss=grpo(loss_type="dapo", top_entropy_quantile=0.2, **WIDE),
        scale=kept_share,
        micro_batches=1,
        difference="TRL divides by all tokens: ours times the kept share is equal",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.ours} is {case.peer}")
def test_value_and_gradient_are_those_of_trl(
    case: Case, record_property: Callable[[str, object], None]
) -> None:
    distances = [case.distance(seed) for seed in range(5)]
    record_property("compared", (case, "TRL", distances))
    assert max(max(pair) for pair in distances) <= case.within, distances
