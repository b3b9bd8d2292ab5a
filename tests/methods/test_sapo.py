"""SAPO, arXiv:2511.20347: the gate and its gradient, with numbers worked out by hand."""

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
from tokensweep.loss.tables import Batch
from tokensweep.methods.covariance import Unclipped
from tokensweep.methods.sapo import SoftGate

Pull = Callable[..., Tensor]


@pytest.fixture
def sapo(method_of: Callable[..., Method]) -> Method:
    return method_of("method=sapo", "method.advantage.eps=0")


@pytest.fixture
def pair(batch_of: Callable[..., Batch]) -> Batch:
    """Two rollouts of one token with the advantages 1 and -1."""
    return batch_of([1, 0], lengths=[1, 1])


def test_the_gate_weighs_the_gradient_as_its_derivative_says(sapo: Method, pair: Batch, pull: Pull) -> None:
    # sigmoid'(x) = e^-x / (1 + e^-x)^2. Good token, r = 2, tau 1: 4 r s' at x = 1; bad token, r = 3, tau
    # 1.05: 4 r s' at x = 2.1. Each over 2 rollouts of 1 token.
    good = 4 * 2 * math.exp(-1) / (1 + math.exp(-1)) ** 2
    bad = 4 * 3 * math.exp(-2.1) / (1 + math.exp(-2.1)) ** 2
    assert pull(sapo, pair, [2.0, 3.0]).tolist() == pytest.approx([-good / 2, bad / 2])


def test_its_value_is_the_sigmoid_scaled_to_slope_one(sapo: Method, pair: Batch) -> None:
    # at r = 1 it is 4 / tau / 2: 2 for the good and 2 / 1.05 for the bad token, (2 - 2 / 1.05) / 2 rollouts
    micro = prepare(sapo, pair).micro(torch.arange(2))
    logprobs = torch.zeros(2, dtype=torch.float64)
    assert micro_loss(sapo, micro, logprobs, logprobs).loss.item() == pytest.approx(-(2 - 2 / 1.05) / 2)


def test_on_policy_the_gradient_is_the_clipped_objective_s(sapo: Method, pair: Batch, pull: Pull) -> None:
    assert pull(sapo, pair, [1.0, 1.0]).tolist() == pytest.approx([-0.5, 0.5])
    assert set(inert_keys(replace(sapo, updates_per_batch=1))) == {
        "surrogate.tau_positive",
        "surrogate.tau_negative",
    }
    assert inert_keys(sapo) == {}


def test_a_gate_without_limits_is_plain_importance_weighting(sapo: Method) -> None:
    # s (1 - s) is even around r = 1: the gate differs from 1 by (tau (r - 1) / 2)^2 at most
    batch = example_batch()
    open_gate = replace(sapo, surrogate=SoftGate(tau_positive=1e-6, tau_negative=1e-6))
    free = replace(sapo, surrogate=Unclipped())
    got, expected = (
        loss_and_gradient(method, prepare(method, batch), near_old(batch))[1] for method in (open_gate, free)
    )
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


def test_bad_tokens_are_held_back_more_and_none_is_silenced(sapo: Method, pair: Batch, pull: Pull) -> None:
    both = pull(sapo, pair, [2.0, 2.0]).abs()
    assert 0 < both[1] < both[0]
    assert (pull(sapo, pair, [20.0, 20.0]) != 0).all()


def test_a_larger_tau_is_a_narrower_gate(sapo: Method, pair: Batch, pull: Pull) -> None:
    def at_two(tau: float) -> float:
        return float(pull(replace(sapo, surrogate=SoftGate(tau_positive=tau)), pair, [2.0, 1.0])[0].abs())

    assert at_two(0.5) > at_two(1.0) > at_two(5.0)


def test_tokens_whose_gate_is_less_than_half_open_count_as_clipped(sapo: Method, pair: Batch) -> None:
    # 4 s (1 - s) = 1 / cosh(tau (r - 1) / 2)^2 is one half at tau (r - 1) = 2 acosh(sqrt 2) = 1.7627
    view = prepare(sapo, pair).micro(torch.arange(2)).table
    for ratios, expected in (([2.76, 2.67], [False, False]), ([2.77, 2.69], [True, True])):
        logprobs = torch.tensor(ratios, dtype=torch.float64).log()
        seen = view.view(logprobs=logprobs, entropy=logprobs)
        assert sapo.surrogate.clipped(seen, logprobs).tolist() == expected


def test_it_tells_how_far_the_gate_is_open(sapo: Method, pair: Batch) -> None:
    # 4 s (1 - s) at tau (r - 1) = 1 and 1.05
    logprobs = torch.tensor([2.0, 2.0], dtype=torch.float64).log()
    told = micro_loss(sapo, prepare(sapo, pair).micro(torch.arange(2)), logprobs, logprobs).measured
    for name, x in (("positive", 1.0), ("negative", 1.05)):
        total, count = told[f"surrogate/gate_{name}"]
        assert total.item() == pytest.approx(4 * math.exp(-x) / (1 + math.exp(-x)) ** 2)
        assert count.item() == 1


@pytest.mark.parametrize("fields", [{"tau_positive": 0.0}, {"tau_negative": -1.0}])
def test_a_gate_that_makes_no_sense_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="tau_positive and tau_negative must be above 0"):
        SoftGate(**fields)
