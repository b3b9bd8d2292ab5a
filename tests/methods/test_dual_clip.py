"""Dual clip, arXiv:1912.09729, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import Tensor

from tokensweep.loss.method import Method, inert_keys
from tokensweep.loss.tables import Batch
from tokensweep.methods.dual_clip import DualClip
from tokensweep.methods.grpo import GroupNormalisedAdvantage, PPOClip

MakeBatch = Callable[..., Batch]
Pull = Callable[..., Tensor]


@pytest.fixture
def dual(method_of: Callable[..., Method]) -> Method:
    grpo = method_of("method=grpo", "method/surrogate=dual_clip")
    return replace(grpo, advantage=GroupNormalisedAdvantage(eps=0), updates_per_batch=2)


def test_a_bad_token_beyond_the_cap_has_no_gradient(dual: Method, batch_of: MakeBatch, pull: Pull) -> None:
    # A = -1, cap 3: ratio 5 gives max(-5, -3) = -3, a constant; ratio 2 pulls with 2, over 2 rollouts
    assert pull(dual, batch_of([1, 0], lengths=[1, 1]), [1, 5]).tolist() == [-0.5, 0]
    assert pull(dual, batch_of([1, 0], lengths=[1, 1]), [1, 2]).tolist() == pytest.approx([-0.5, 1])


def test_good_tokens_and_small_ratios_are_clipped_as_by_ppo(
    dual: Method, batch_of: MakeBatch, pull: Pull
) -> None:
    ppo = replace(dual, surrogate=PPOClip())
    batch = batch_of([1, 0], lengths=[3, 3])
    ratios = [5, 1.1, 0.1, 0.1, 1.1, 2.9]
    assert pull(dual, batch, ratios).tolist() == pull(ppo, batch, ratios).tolist()


def test_its_bounds_have_no_effect_with_one_update(dual: Method) -> None:
    assert set(inert_keys(replace(dual, updates_per_batch=1))) == {
        "surrogate.low",
        "surrogate.high",
        "surrogate.cap",
    }


def test_the_recipe_of_dapo_has_it_at_ten(method_of: Callable[..., Method]) -> None:
    assert method_of("method=dapo_recipe").surrogate == DualClip(low=0.2, high=0.28, cap=10)


def test_a_cap_that_every_ratio_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match="cap must be above 1, the ratio without any change, got 1"):
        DualClip(cap=1)
