"""GSPO, arXiv:2507.18071: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch as random_batch
from tokensweep.loss.laws import loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.slots import AdvantageShaper, Policy
from tokensweep.loss.tables import Batch, View
from tokensweep.methods.grpo import GroupNormalisedAdvantage, PPOClip, RolloutMean
from tokensweep.methods.gspo import SequenceRatio, SequenceTokenRatio

MakeBatch = Callable[..., Batch]
Pull = Callable[..., Tensor]
WIDE = PPOClip(low=1, high=100)


@pytest.fixture
def gspo(method_of: Callable[..., Method]) -> Method:
    return replace(method_of("method=gspo"), advantage=GroupNormalisedAdvantage(eps=0))


@dataclass(frozen=True)
class FirstTokens(AdvantageShaper):
    """Advantages on the first token of each rollout only."""

    policy: Policy = Policy.old

    def __call__(self, view: View) -> Tensor:
        return torch.where(view.completion_position == 0, view.advantages, 0.0)


def test_unclipped_every_token_pulls_with_the_geometric_mean_over_the_length(
    gspo: Method, batch_of: MakeBatch, pull: Pull
) -> None:
    # ratios 1 and 4: s = 2; A = 1, 2 tokens, 2 rollouts: 2 * 1 / 2 / 2 = 1/2
    # one token of ratio 3, A = -1: 3/2
    got = pull(replace(gspo, surrogate=WIDE), batch_of([1, 0], lengths=[2, 1]), [1, 4, 3])
    assert got.tolist() == pytest.approx([-0.5, -0.5, 1.5])


def test_all_tokens_of_a_rollout_are_clipped_together(gspo: Method, batch_of: MakeBatch, pull: Pull) -> None:
    # (1.001 * 1.0002) ** 0.5 = 1.0006 > 1 + 4e-4 although one token lies inside; 1.0003 does not
    assert pull(gspo, batch_of([1, 0], lengths=[2, 2]), [1.001, 1.0002, 1, 1]).tolist()[:2] == [0, 0]
    inside = pull(gspo, batch_of([1, 0], lengths=[2, 2]), [1.0004, 1.0002, 1, 1])
    assert (inside != 0).all()


def test_on_policy_it_has_the_gradient_of_grpo(
    gspo: Method, method_of: Callable[..., Method], batch_of: MakeBatch, pull: Pull
) -> None:
    grpo = replace(method_of("method=grpo"), advantage=GroupNormalisedAdvantage(eps=0))
    batch = batch_of([1, 0, 0], lengths=[2, 3, 1])
    torch.testing.assert_close(pull(gspo, batch, [1] * 6), pull(grpo, batch, [1] * 6))


def test_the_token_form_is_the_same_for_one_advantage_per_rollout(gspo: Method) -> None:
    batch = random_batch()
    now = near_old(batch)
    token = replace(gspo, ratio=SequenceTokenRatio(), surrogate=PPOClip())
    sequence = replace(gspo, ratio=SequenceRatio(), surrogate=PPOClip())
    prepared = prepare(sequence, batch)
    for ours, theirs in zip(
        loss_and_gradient(token, prepared, now), loss_and_gradient(sequence, prepared, now), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_in_the_token_form_a_token_pulls_by_its_own_advantage(
    gspo: Method, batch_of: MakeBatch, pull: Pull
) -> None:
    # A = 1 on the first of two tokens, s = 2, 2 rollouts. Sequence: both pull 2 * (1 + 0)/2 / 2 / 2 = 1/4;
    # token form: the first alone, 2 * 1 / 2 / 2 = 1/2
    method = replace(gspo, surrogate=WIDE, advantage_shapers={"first": FirstTokens()})
    batch = batch_of([1, 0], lengths=[2, 1])
    assert pull(method, batch, [1, 4, 1]).tolist()[:2] == pytest.approx([-0.25, -0.25])
    token = replace(method, ratio=SequenceTokenRatio())
    assert pull(token, batch, [1, 4, 1]).tolist()[:2] == pytest.approx([-0.5, 0])


def test_the_preset_holds_what_the_paper_says(gspo: Method) -> None:
    assert gspo.ratio == SequenceRatio()
    assert gspo.surrogate == PPOClip(low=3e-4, high=4e-4)
    assert gspo.aggregate == RolloutMean()
    assert gspo.updates_per_batch == 4
