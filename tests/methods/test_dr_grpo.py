"""Dr. GRPO, arXiv:2503.20783: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch
from tokensweep.methods.dr_grpo import ConstantLength
from tokensweep.methods.grpo import GroupNormalisedAdvantage, Std

MakeBatch = Callable[..., Batch]
Pull = Callable[..., Tensor]


@pytest.fixture
def dr_grpo(method_of: Callable[..., Method]) -> Method:
    return method_of("method=dr_grpo")


def test_a_tokens_pull_does_not_depend_on_the_length_of_its_rollout(
    dr_grpo: Method, batch_of: MakeBatch, pull: Pull
) -> None:
    # A = 1/2 and -1/2, 2 rollouts, limit 3 tokens: 1/2 / (2 * 3) = 1/12 for every token
    got = pull(dr_grpo, batch_of([1, 0], lengths=[1, 3]), [1, 1, 1, 1])
    torch.testing.assert_close(got, torch.tensor([-1, 1, 1, 1], dtype=torch.float64) / 12)


def test_an_explicit_length_replaces_the_limit(dr_grpo: Method, batch_of: MakeBatch, pull: Pull) -> None:
    longer = replace(dr_grpo, aggregate=ConstantLength(length=3000))
    batch = batch_of([1, 0], lengths=[1, 3])
    torch.testing.assert_close(pull(longer, batch, [1] * 4) * 1000, pull(dr_grpo, batch, [1] * 4))


def test_advantages_are_linear_in_the_rewards(dr_grpo: Method, batch_of: MakeBatch) -> None:
    once = prepare(dr_grpo, batch_of([1, 0, 0.5], lengths=[1, 3, 2])).advantages
    thrice = prepare(dr_grpo, batch_of([3, 0, 1.5], lengths=[1, 3, 2])).advantages
    torch.testing.assert_close(thrice, 3 * once)


def test_with_full_lengths_and_unit_std_it_is_grpo(
    dr_grpo: Method, method_of: Callable[..., Method], batch_of: MakeBatch, pull: Pull
) -> None:
    batch = batch_of([2, 0], lengths=[3, 3])  # population standard deviation 1
    grpo = replace(method_of("method=grpo"), advantage=GroupNormalisedAdvantage(eps=0))
    ratios = [1, 1.1, 0.9, 1.5, 1, 0.5]
    torch.testing.assert_close(pull(dr_grpo, batch, ratios), pull(grpo, batch, ratios))


def test_the_preset_holds_what_the_paper_says(dr_grpo: Method) -> None:
    assert dr_grpo.advantage == GroupNormalisedAdvantage(std=Std.none)
    assert dr_grpo.aggregate == ConstantLength()
    assert dr_grpo.updates_per_batch == 8
    assert not dr_grpo.regularizers


def test_a_length_below_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="length must be at least 1 token, got 0"):
        ConstantLength(length=0)
