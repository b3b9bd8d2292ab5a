"""VESPO, arXiv:2602.10693: the kernel and the sequence weight, with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method, inert_keys
from tokensweep.loss.objective import micro_loss, prepare
from tokensweep.loss.tables import Batch, View
from tokensweep.methods.grpo import PPOClip, TokenRatio
from tokensweep.methods.vespo import GammaKernel, SequenceProduct

Pull = Callable[..., Tensor]
NONE = GammaKernel(power_positive=0, decay_positive=0, power_negative=0, decay_negative=0)


@pytest.fixture
def vespo(method_of: Callable[..., Method]) -> Method:
    return method_of("method=vespo", "method.advantage.eps=0")


@pytest.fixture
def three(batch_of: Callable[..., Batch]) -> Batch:
    """A good rollout of two tokens and a bad one of one: advantages 1, 1, -1."""
    return batch_of([1, 0], lengths=[2, 1])


def test_the_weight_is_that_of_the_whole_rollout(vespo: Method, three: Batch, pull: Pull) -> None:
    # good: W = 2 * 0.75 = 1.5, phi = 1.5^2 e^(3 (1 - 1.5)); bad: W = 0.5, phi = 0.5^3 e^(2 (1 - 0.5)); of 3
    good, bad = 1.5**2 * math.exp(-1.5), 0.5**3 * math.exp(1)
    got = pull(vespo, three, [2.0, 0.75, 0.5]).tolist()
    assert got == pytest.approx([-good / 3, -good / 3, bad / 3])


def view_of(method: Method, batch: Batch, ratios: list[float]) -> View:
    logprobs = torch.tensor(ratios, dtype=torch.float64).log()
    return prepare(method, batch).micro(torch.arange(2)).table.view(logprobs=logprobs, entropy=logprobs)


def test_the_kernel_is_one_at_one_and_greatest_at_power_over_decay(vespo: Method, three: Batch) -> None:
    # good tokens peak at 2/3, bad ones at 3/2
    view = view_of(vespo, three, [1, 1, 1])

    def kernel(*weights: float) -> list[float]:
        return GammaKernel().kernel(view, torch.tensor(weights, dtype=torch.float64).log()).tolist()

    assert kernel(1, 1, 1) == [1, 1, 1]
    peak = kernel(2 / 3, 2 / 3, 3 / 2)
    for near in (kernel(0.66, 0.67, 1.49), kernel(0.65, 0.68, 1.51)):
        assert all(a < b for a, b in zip(near, peak, strict=True))
    assert max(kernel(1e-8, 1e-8, 4e8)) < 1e-14


def test_the_product_has_no_root_by_length_and_is_held(vespo: Method, three: Batch) -> None:
    ratio = SequenceProduct()
    assert ratio(view_of(vespo, three, [2, 3, 0.5])).exp().tolist() == pytest.approx([6, 6, 0.5])
    # 15 + 15 nats are held at 20; -15 - 15 at log 1e-8
    wide = math.exp(15)
    held = ratio(view_of(vespo, three, [wide, wide, 1])).tolist()
    assert held == pytest.approx([20, 20, 0])
    assert ratio(view_of(vespo, three, [1 / wide, 1 / wide, 1])).exp().tolist() == pytest.approx(
        [1e-8, 1e-8, 1]
    )


def test_a_token_of_weight_zero_is_not_in_the_product(vespo: Method, three: Batch) -> None:
    view = view_of(vespo, three, [2, 3, 0.5])
    view = replace(view, weights=torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    assert SequenceProduct()(view).exp().tolist() == pytest.approx([2, 2, 0.5])


def test_without_power_and_decay_it_is_reinforce_whatever_the_ratio(vespo: Method) -> None:
    batch = example_batch()
    batch = replace(batch, minibatch_of=torch.zeros(12).long(), microbatch_of=torch.zeros(12).long())
    method = replace(vespo, surrogate=NONE)
    prepared = prepare(method, batch)
    got = loss_and_gradient(method, prepared, near_old(batch, spread=0.5))[1]
    torch.testing.assert_close(got, -prepared.advantages / 71, rtol=1e-14, atol=0)  # 71 tokens


def test_power_one_without_decay_is_the_sequence_importance_weight(
    vespo: Method, three: Batch, pull: Pull
) -> None:
    plain = GammaKernel(power_positive=1, decay_positive=0, power_negative=1, decay_negative=0)
    got = pull(replace(vespo, surrogate=plain), three, [2.0, 0.75, 0.5]).tolist()
    assert got == pytest.approx([-1.5 / 3, -1.5 / 3, 0.5 / 3])


def test_on_policy_it_has_the_gradient_of_the_clipped_token_mean(vespo: Method) -> None:
    batch = example_batch()
    now = near_old(batch, spread=0)
    clip = replace(vespo, ratio=TokenRatio(), surrogate=PPOClip())
    got, expected = (loss_and_gradient(m, prepare(m, batch), now)[1] for m in (vespo, clip))
    torch.testing.assert_close(got, expected)
    assert len(inert_keys(replace(vespo, updates_per_batch=1))) == 4
    assert inert_keys(vespo) == {}


def test_a_weight_far_off_takes_the_gradient_away_smoothly(vespo: Method, three: Batch, pull: Pull) -> None:
    far = pull(vespo, three, [10.0, 10.0, 30.0]).abs()  # W = 100 and 30
    assert (far < 1e-20).all()
    assert (pull(vespo, three, [1.5, 1.5, 2.0]) != 0).all()


def test_what_the_kernel_more_than_halves_counts_as_clipped(vespo: Method, three: Batch) -> None:
    # phi+(2) = 4 e^-3 = 0.199, phi+(1.5) = 0.502, phi-(0.5) = 0.34, phi-(0.7) = 0.625
    view = view_of(vespo, three, [1, 1, 1])
    log_ratio = torch.tensor([2, 1.5, 0.5], dtype=torch.float64).log()
    assert vespo.surrogate.clipped(view, log_ratio).tolist() == [True, False, True]
    log_ratio = torch.tensor([2, 1.5, 0.7], dtype=torch.float64).log()
    assert vespo.surrogate.clipped(view, log_ratio).tolist() == [True, False, False]


def test_it_tells_the_kernel_and_how_far_rollouts_moved(vespo: Method, three: Batch) -> None:
    # W = 1.5 for two tokens, 0.5 for one
    logprobs = torch.tensor([2.0, 0.75, 0.5], dtype=torch.float64).log()
    told = micro_loss(vespo, prepare(vespo, three).micro(torch.arange(2)), logprobs, logprobs).measured
    means = {name: (total / count).item() for name, (total, count) in told.items()}
    assert means["surrogate/kernel_positive"] == pytest.approx(1.5**2 * math.exp(-1.5))
    assert means["surrogate/kernel_negative"] == pytest.approx(0.5**3 * math.exp(1))
    assert means["surrogate/distance"] == pytest.approx((2 * math.log(1.5) + math.log(2)) / 3)


@pytest.mark.parametrize("field", ["power_positive", "decay_positive", "power_negative", "decay_negative"])
def test_a_kernel_that_makes_no_sense_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="powers and decays must be at least 0, got"):
        GammaKernel(**{field: -0.1})
