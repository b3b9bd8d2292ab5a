"""GMPO, arXiv:2507.20673: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method, inert_keys
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch
from tokensweep.methods.gmpo import LogClip
from tokensweep.methods.grpo import GroupNormalisedAdvantage, PPOClip, RolloutMean
from tokensweep.methods.gspo import SequenceRatio
from tokensweep.methods.holderpo import HolderTokenMean

MakeBatch = Callable[..., Batch]
Pull = Callable[..., Tensor]


@pytest.fixture
def gmpo(method_of: Callable[..., Method]) -> Method:
    return replace(method_of("method=gmpo"), advantage=GroupNormalisedAdvantage(eps=0))


def both(one: Method, other: Method, *, spread: float) -> None:
    """Two methods have the same value and gradient."""
    batch = example_batch()
    now = near_old(batch, spread=spread)
    got, expected = (loss_and_gradient(each, prepare(each, batch), now) for each in (one, other))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_clipped_token_keeps_its_bound_in_the_mean_but_no_gradient(
    gmpo: Method, batch_of: MakeBatch, pull: Pull
) -> None:
    # A = 1: log ratios 1 (clipped at 0.4) and 0, geometric mean exp(0.2); 2 tokens, 2 rollouts
    # A = -1: log ratios -1 (clipped at -0.4) and 0, geometric mean exp(-0.2)
    ratios = [math.e, 1, 1 / math.e, 1]
    got = pull(gmpo, batch_of([1, 0], lengths=[2, 2]), ratios)
    assert got.tolist() == pytest.approx([0, -math.exp(0.2) / 4, 0, math.exp(-0.2) / 4])


def test_the_clip_is_one_sided(gmpo: Method, batch_of: MakeBatch, pull: Pull) -> None:
    # A > 0 with a fallen ratio and A < 0 with a risen one are not clipped
    got = pull(gmpo, batch_of([1, 0], lengths=[1, 1]), [1 / math.e, math.e])
    assert got.tolist() == pytest.approx([-1 / math.e / 2, math.e / 2])


def test_without_a_clip_it_is_gspos_unclipped_objective(gmpo: Method) -> None:
    wide = replace(gmpo, surrogate=LogClip(low=50, high=50))
    gspo = replace(gmpo, surrogate=PPOClip(low=1, high=1e9), ratio=SequenceRatio(), aggregate=RolloutMean())
    both(wide, gspo, spread=0.3)


def test_it_is_holders_token_form_of_order_zero_on_the_same_interval(gmpo: Method) -> None:
    interval = PPOClip(low=1 - math.exp(-0.4), high=math.exp(0.4) - 1)
    both(gmpo, replace(gmpo, surrogate=interval), spread=1.0)


def test_on_policy_it_has_the_gradient_of_grpo(
    gmpo: Method, method_of: Callable[..., Method], batch_of: MakeBatch, pull: Pull
) -> None:
    grpo = replace(method_of("method=grpo"), advantage=GroupNormalisedAdvantage(eps=0))
    batch = batch_of([1, 0, 0], lengths=[2, 3, 1])
    torch.testing.assert_close(pull(gmpo, batch, [1] * 6), pull(grpo, batch, [1] * 6))


def test_the_preset_holds_what_the_code_says(method_of: Callable[..., Method]) -> None:
    gmpo = method_of("method=gmpo")
    assert gmpo.surrogate == LogClip(low=0.4, high=0.4)
    assert gmpo.aggregate == HolderTokenMean(p=0)
    assert set(inert_keys(replace(gmpo, updates_per_batch=1))) >= {"surrogate.low", "surrogate.high"}


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="low and high must be at least 0 nats"):
        LogClip(low=-0.1)
