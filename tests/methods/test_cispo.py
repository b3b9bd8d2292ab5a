"""CISPO, arXiv:2506.13585: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method, inert_keys
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch
from tokensweep.methods.cispo import CISPO, MaskedCISPO
from tokensweep.methods.grpo import PPOClip

LOG_RATIOS = torch.tensor([-0.5, -0.1, 0.0, 0.2, 0.9], dtype=torch.float64).repeat(15)[:71]


def one_minibatch() -> Batch:
    batch = example_batch()
    return replace(batch, minibatch_of=torch.zeros(12).long(), microbatch_of=torch.zeros(12).long())


def gradient(method: Method, log_ratios: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient [N] by the log-probabilities, and the advantages [N]."""
    batch = one_minibatch()
    prepared = prepare(method, batch)
    now = near_old(batch, spread=0)
    now = replace(now, logprobs=now.logprobs + log_ratios)
    return loss_and_gradient(method, prepared, now)[1], prepared.advantages


@pytest.fixture
def cispo(method_of: Callable[..., Method]) -> Method:
    return method_of("method=cispo")


def test_on_policy_it_is_the_token_mean_policy_gradient(cispo: Method) -> None:
    got, advantages = gradient(cispo, torch.zeros(71, dtype=torch.float64))
    torch.testing.assert_close(got, -advantages / 71)  # 71 tokens
    clip = gradient(replace(cispo, surrogate=PPOClip()), torch.zeros(71, dtype=torch.float64))[0]
    torch.testing.assert_close(got, clip)


def test_the_weight_is_the_capped_ratio_and_carries_no_gradient(cispo: Method) -> None:
    # cap 1.5: of exp(-0.5, -0.1, 0, 0.2, 0.9) only the last, 2.46, is capped
    got, advantages = gradient(replace(cispo, surrogate=CISPO(is_cap=1.5)), LOG_RATIOS)
    weights = torch.where(LOG_RATIOS == 0.9, 1.5, LOG_RATIOS.exp())
    torch.testing.assert_close(got, -weights * advantages / 71)


def test_inside_the_band_it_is_ppo_and_above_only_cispo_has_a_gradient(cispo: Method) -> None:
    ours, advantages = gradient(cispo, LOG_RATIOS)
    ppo = gradient(replace(cispo, surrogate=PPOClip(low=0.2, high=0.28)), LOG_RATIOS)[0]
    inside = (LOG_RATIOS.exp() - 1).abs() < 0.2
    torch.testing.assert_close(ours[inside], ppo[inside])
    grown = (LOG_RATIOS == 0.9) & (advantages > 0)
    assert (ppo[grown] == 0).all()
    assert (ours[grown] != 0).all()


def test_every_token_with_an_advantage_has_a_gradient(cispo: Method) -> None:
    got, advantages = gradient(cispo, LOG_RATIOS)
    assert torch.equal(got != 0, advantages != 0)


def test_an_infinite_cap_is_plain_importance_weighting(cispo: Method) -> None:
    got, advantages = gradient(replace(cispo, surrogate=CISPO(is_cap=1e30)), LOG_RATIOS)
    torch.testing.assert_close(got, -LOG_RATIOS.exp() * advantages / 71)


def test_with_mask_and_no_cap_the_gradient_is_that_of_the_clipped_objective(cispo: Method) -> None:
    masked = gradient(replace(cispo, surrogate=MaskedCISPO(low=0.2, high=0.28)), LOG_RATIOS)[0]
    clipped = gradient(replace(cispo, surrogate=PPOClip(low=0.2, high=0.28)), LOG_RATIOS)[0]
    torch.testing.assert_close(masked, clipped)


def test_the_mask_and_the_cap_act_together(cispo: Method) -> None:
    # high 10 masks nothing above, so the cap of 1.5 acts; A < 0 and exp(-0.5) = 0.61 < 0.8 is masked
    surrogate = MaskedCISPO(low=0.2, high=10.0, is_cap=1.5)
    got, advantages = gradient(replace(cispo, surrogate=surrogate), LOG_RATIOS)
    weights = torch.where(LOG_RATIOS == 0.9, 1.5, LOG_RATIOS.exp())
    weights = torch.where((LOG_RATIOS == -0.5) & (advantages < 0), 0.0, weights)
    torch.testing.assert_close(got, -weights * advantages / 71)


def test_the_cap_has_no_effect_with_one_update_unless_it_is_below_one(cispo: Method) -> None:
    once = replace(cispo, updates_per_batch=1)
    assert "surrogate.is_cap" in inert_keys(once)
    assert "surrogate.is_cap" not in inert_keys(replace(once, surrogate=CISPO(is_cap=0.9)))
    assert "surrogate.is_cap" not in inert_keys(cispo)


@pytest.mark.parametrize("surrogate", [CISPO, MaskedCISPO])
def test_a_cap_that_is_not_positive_is_refused(surrogate: type[CISPO] | type[MaskedCISPO]) -> None:
    with pytest.raises(ValueError, match="is_cap must be above 0, got 0"):
        surrogate(is_cap=0.0)


def test_mask_bounds_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"low must be in \[0, 1\)"):
        MaskedCISPO(low=1.5)
