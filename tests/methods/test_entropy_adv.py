"""Entropy-shaped advantages, arXiv:2506.14758: the properties that their card lists, with numbers by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tokensweep.loss.laws import Policies, example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.slots import Policy
from tokensweep.loss.tables import Batch, View
from tokensweep.methods.entropy_adv import EntropyShapedAdvantage


@pytest.fixture
def shaped(method_of: Callable[..., Method]) -> Method:
    return method_of("method=entropy_adv")


def shape(
    part: EntropyShapedAdvantage, view: View, advantages: list[float], entropy: list[float]
) -> list[float]:
    one = replace(
        view,
        advantages=torch.tensor(advantages, dtype=torch.float64),
        entropy=torch.tensor(entropy, dtype=torch.float64),
    )
    return part(one).tolist()


@pytest.fixture
def view(method_of: Callable[..., Method], batch_of: Callable[..., Batch]) -> View:
    """Four tokens."""
    batch = batch_of([1, 0], lengths=[2, 2])
    table = prepare(method_of("method=grpo"), batch).micro(torch.arange(2)).table
    return table.view(logprobs=batch.columns["old_logprobs"], entropy=batch.columns["old_logprobs"])


def test_the_bonus_grows_with_entropy_up_to_a_share_of_the_advantage(view: View) -> None:
    # 0.4 H: 0.4, then 0.8 held at |A| / 2 = 0.5; a blame of -1 is softened by as much; 0 stays 0
    got = shape(EntropyShapedAdvantage(), view, [1, 1, -1, 0], [1, 2, 1, 3])
    assert got == pytest.approx([1.4, 1.5, -0.6, 0])


def test_the_bonus_saturates_where_entropy_reaches_the_bound(view: View) -> None:
    # |A| / (strength * bound) = 1 / 0.8 = 1.25 nats
    got = shape(EntropyShapedAdvantage(), view, [1, 1, 1, 1], [1.2, 1.25, 1.3, 9])
    assert got == pytest.approx([1.48, 1.5, 1.5, 1.5])


def test_no_sign_changes(shaped: Method) -> None:
    batch = example_batch()
    method = replace(
        shaped, advantage_shapers={"entropy": EntropyShapedAdvantage(strength=9, policy=Policy.old)}
    )
    before = prepare(replace(shaped, advantage_shapers={}), batch).advantages
    assert torch.equal(prepare(method, batch).advantages.sign(), before.sign())


def test_without_strength_it_is_the_base_method(shaped: Method) -> None:
    off = replace(shaped, advantage_shapers={"entropy": EntropyShapedAdvantage(strength=0)})
    base = replace(shaped, advantage_shapers={})
    batch = example_batch()
    now = near_old(batch)
    got = loss_and_gradient(off, prepare(off, batch), now)
    for ours, theirs in zip(got, loss_and_gradient(base, prepare(base, batch), now), strict=True):
        assert torch.equal(ours, theirs)


def test_it_reads_the_entropy_of_the_forward_or_of_the_policy_that_sampled(shaped: Method) -> None:
    batch = example_batch()
    now = near_old(batch)
    as_old = Policies(now.logprobs, batch.columns["old_entropy"])
    old = replace(shaped, advantage_shapers={"entropy": EntropyShapedAdvantage(policy=Policy.old)})
    by_old = loss_and_gradient(old, prepare(old, batch), now)[1]
    torch.testing.assert_close(loss_and_gradient(shaped, prepare(shaped, batch), as_old)[1], by_old)
    assert not torch.allclose(loss_and_gradient(shaped, prepare(shaped, batch), now)[1], by_old)


@pytest.mark.parametrize("fields", [{"strength": -0.1}, {"bound": 0.0}])
def test_a_bonus_that_makes_no_sense_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="strength must be at least 0 and bound above 0"):
        EntropyShapedAdvantage(**fields)  # type: ignore[arg-type]  # all fields given are floats
