"""Our losses give TRL's numbers: value and gradient, from rewards on, on random tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from tests.peers.tables import MAX_TOKENS, Case, Drift
from tests.peers.trl_losses import grpo, rloo

from tokensweep.loss.tables import Batch

STD = "method/advantage=sample_std method.advantage.eps=1e-4"
TWO_UPDATES = "method.updates_per_batch=2"  # with one, bounds and penalties that need a ratio are refused
NOT_TRUNCATED = "+method/token_weights@method.token_weights.truncated=not_truncated"
HIGHER: dict[str, Any] = {"epsilon_high": 0.28}


def kept_share(batch: Batch) -> float:
    """What 20 % of the tokens, rounded up, is of all."""
    return math.ceil(batch.num_tokens / 5) / batch.num_tokens


CASES = (
    Case(
        ours=f"method=naive_grpo {STD}",
        peer="GRPO, loss_type grpo",
        loss=grpo(loss_type="grpo"),
    ),
    Case(
        ours=f"method=dapo {STD}",
        peer="GRPO, loss_type dapo, clip-higher",
        loss=grpo(loss_type="dapo", **HIGHER),
    ),
    Case(
        ours=f"method=dapo method/aggregate=selected_mean_micro {STD}",
        peer="GRPO, loss_type bnpo, clip-higher",
        loss=grpo(loss_type="bnpo", **HIGHER),
        difference="both take the mean of micro-batch means; token_mean does not",
    ),
    Case(
        ours="method=dr_grpo",
        peer="GRPO, loss_type dr_grpo, scale_rewards none",
        loss=grpo(loss_type="dr_grpo", scale_rewards="none", max_completion_length=MAX_TOKENS),
    ),
    Case(
        ours=f"method=dapo_recipe method.surrogate.cap=3 {STD}",
        peer="GRPO, loss_type dapo, clip-higher, delta 3",
        loss=grpo(loss_type="dapo", delta=3.0, **HIGHER),
    ),
    Case(
        ours=f"method=cispo {STD}",
        peer="GRPO, loss_type cispo, epsilon_high 5",
        loss=grpo(loss_type="cispo", epsilon_high=5.0),
    ),
    Case(
        ours=f"method=gspo {STD}",
        peer="GRPO, loss_type grpo, sequence ratio, 3e-4 / 4e-4",
        loss=grpo(loss_type="grpo", importance_sampling_level="sequence", epsilon=3e-4, epsilon_high=4e-4),
    ),
    Case(
        ours=f"method=sapo {STD}",
        peer="GRPO, loss_type sapo",
        loss=grpo(loss_type="sapo"),
        within=1e-7,
        difference="TRL holds the temperatures in float32, where 1.05 is 1.05 - 5e-8",
    ),
    Case(
        ours=f"method=vespo {STD}",
        peer="GRPO, loss_type vespo",
        loss=grpo(loss_type="vespo"),
    ),
    Case(
        ours="method=holderpo method.ratio.p=0 method.advantage.eps=1e-4",
        peer="GRPO, loss_type grpo, sequence ratio",
        loss=grpo(loss_type="grpo", importance_sampling_level="sequence"),
    ),
    Case(
        ours="method=holderpo_token method.aggregate.p=1 method.advantage.eps=1e-4",
        peer="GRPO, loss_type grpo",
        loss=grpo(loss_type="grpo"),
    ),
    Case(
        ours=f"method=forking_tokens_as_released method/aggregate=token_mean method.surrogate.cap=3 {STD}",
        peer="GRPO, loss_type dapo, clip-higher, delta 3, top_entropy_quantile 0.2",
        loss=grpo(loss_type="dapo", delta=3.0, top_entropy_quantile=0.2, **HIGHER),
    ),
    Case(
        ours=f"method=forking_tokens_as_released method.surrogate.cap=3 {STD}",
        peer="GRPO, loss_type dapo, clip-higher, delta 3, top_entropy_quantile 0.2",
        loss=grpo(loss_type="dapo", delta=3.0, top_entropy_quantile=0.2, **HIGHER),
        scale=kept_share,
        micro_batches=1,
        difference="TRL divides by all tokens: ours times the kept share is equal",
    ),
    Case(
        ours=f"method=forking_tokens {STD}",
        peer="GRPO, loss_type dapo, clip-higher, top_entropy_quantile 0.2",
        loss=grpo(loss_type="dapo", top_entropy_quantile=0.2, **HIGHER),
        scale=kept_share,
        drift=Drift.none,
        micro_batches=1,
        difference="as above; old policy and whole batch select as current policy and micro-batch",
    ),
    Case(
        ours=f"method=naive_grpo {NOT_TRUNCATED} {STD}",
        peer="GRPO, loss_type grpo, mask_truncated_completions",
        loss=grpo(loss_type="grpo", mask_truncated_completions=True),
    ),
    Case(
        ours=f"method=dapo {NOT_TRUNCATED} method/aggregate=selected_mean {STD}",
        peer="GRPO, loss_type dapo, clip-higher, mask_truncated_completions",
        loss=grpo(loss_type="dapo", mask_truncated_completions=True, **HIGHER),
        difference="TRL leaves masked tokens out of the denominator: selected_mean, not token_mean",
    ),
    Case(
        ours=f"method=grpo_kl {TWO_UPDATES} {STD}",
        peer="GRPO, loss_type grpo, beta 0.04, use_bias_correction_kl off",
        loss=grpo(loss_type="grpo", beta=0.04, use_bias_correction_kl=False),
    ),
    Case(
        ours=f"method=grpo_kl {TWO_UPDATES} method.regularizers.kl.importance_weighted=true {STD}",
        peer="GRPO, loss_type grpo, beta 0.04",
        loss=grpo(loss_type="grpo", beta=0.04),
    ),
    Case(
        ours=f"method=entropy_bonus {STD}",
        peer="GRPO, loss_type dapo, clip-higher, entropy_coef 0.001",
        loss=grpo(loss_type="dapo", entropy_coef=0.001, **HIGHER),
        micro_batches=1,
        difference="one micro-batch: TRL's bonus is a mean of micro-batch means",
    ),
    Case(
        ours="method=rloo",
        peer="RLOO, beta 0.03",
        loss=rloo(beta=0.03),
        drift=Drift.none,
        value=False,
        difference="TRL's ratio is that of the whole rollout",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.ours} is {case.peer}")
def test_value_and_gradient_are_those_of_trl(
    case: Case, record_property: Callable[[str, object], None]
) -> None:
    distances = [case.distance(seed) for seed in range(5)]
    record_property("table_row", case.row("TRL", distances))
    assert max(max(pair) for pair in distances) <= case.within, distances
