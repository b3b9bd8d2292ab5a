"""OPEFO, arXiv:2605.11491: the properties of its card, with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokensweep.loss.head import linear_token_stats
from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch, View
from tokensweep.methods.opefo import EntropyFlowWeight, Proxy, Sides

# Four tokens of probability 1/2, so (1 - p)^2 = 1/4, with A = 1 1 -1 -1 and log p + H = 1 0 3 1:
# d = -1/4 0 3/4 1/4, P = 1, N = 1/4, lambda = -0.75 / 1.25 = -0.6
CENTRED = [1.0, 0.0, 3.0, 1.0]


@pytest.fixture
def batch(batch_of: Callable[..., Batch]) -> Batch:
    half = torch.full((4,), -math.log(2), dtype=torch.float64)
    entropy = [math.log(2) + each for each in CENTRED]
    return batch_of([1, 0], lengths=[2, 2], old_entropy=entropy).with_columns(old_logprobs=half)


@pytest.fixture
def opefo(method_of: Callable[..., Method]) -> Method:
    return method_of("method=opefo")


def weights(method: Method, part: EntropyFlowWeight, batch: Batch) -> list[float]:
    return prepare(replace(method, token_weights={"flow": part}), batch).weights.tolist()


@pytest.fixture
def view(batch_of: Callable[..., Batch], method_of: Callable[..., Method]) -> Callable[..., View]:
    """Tokens with these advantages and log-probabilities, entropies and columns."""

    def make(advantages: Sequence[float], *, logprobs: Tensor, entropy: Tensor, **columns: Tensor) -> View:
        one = batch_of([1], lengths=[len(advantages)])
        table = prepare(method_of("method=grpo"), one).micro(torch.arange(1)).table
        table = replace(table, advantages=torch.tensor(advantages, dtype=torch.float64), columns=columns)
        return table.view(logprobs=logprobs, entropy=entropy)

    return make


def test_the_weights_leave_no_net_flow(opefo: Method, batch: Batch) -> None:
    # (1 - 0.6) * 1 = (1 + 0.6) * 1/4
    assert weights(opefo, EntropyFlowWeight(), batch) == pytest.approx([1.6, 1, 0.4, 0.4])
    whole = EntropyFlowWeight().batch_metrics(whole_of(opefo, batch))
    assert whole == pytest.approx(
        {
            "lambda": -0.6,
            "flow_up": 1 / 4,
            "flow_down": 1 / 16,
            "flow_left": 0,
            "up_fraction": 2 / 4,
            "down_fraction": 1 / 4,
        },
        rel=1e-5,  # the advantages are 1 up to the eps of their group
    )


def whole_of(method: Method, batch: Batch) -> View:
    """The whole batch as the old policy sees it, without weights."""
    seen: list[View] = []

    class Spy(EntropyFlowWeight):
        def __call__(self, view: View) -> Tensor:
            seen.append(view)
            return super().__call__(view)

    prepare(replace(method, token_weights={"flow": Spy()}), batch)
    return seen[0]


def test_the_gradient_is_that_of_strict_grpo_times_the_weights(
    opefo: Method, batch: Batch, pull: Callable[..., Tensor]
) -> None:
    # -w A over 4 tokens
    assert pull(opefo, batch, [1, 1, 1, 1]).tolist() == pytest.approx([-0.4, -0.25, 0.1, 0.1], rel=1e-5)


def test_one_side_alone_keeps_lambda(opefo: Method, batch: Batch) -> None:
    assert weights(opefo, EntropyFlowWeight(sides=Sides.up), batch) == pytest.approx([1, 1, 0.4, 0.4])
    assert weights(opefo, EntropyFlowWeight(sides=Sides.down), batch) == pytest.approx([1.6, 1, 1, 1])


def test_a_static_lambda_looks_at_signs_only(opefo: Method, batch: Batch) -> None:
    got = weights(opefo, EntropyFlowWeight(static=0.001), batch)
    assert got == pytest.approx([0.999, 1, 1.001, 1.001])


def test_without_lambda_it_is_strict_grpo(opefo: Method) -> None:
    off = replace(opefo, token_weights={"flow": EntropyFlowWeight(static=0)})
    plain = replace(opefo, token_weights={})
    one = example_batch()
    now = near_old(one)
    got = loss_and_gradient(off, prepare(off, one), now)
    for ours, theirs in zip(got, loss_and_gradient(plain, prepare(plain, one), now), strict=True):
        assert torch.equal(ours, theirs)


def test_flow_that_is_balanced_already_is_left_alone(opefo: Method, batch: Batch) -> None:
    # log p + H = 1 0 1 0: d = -1/4 0 1/4 0
    entropy = math.log(2) + torch.tensor([1.0, 0, 1, 0], dtype=torch.float64)
    assert weights(opefo, EntropyFlowWeight(), batch.with_columns(old_entropy=entropy)) == [1, 1, 1, 1]


@pytest.mark.parametrize("proxy", Proxy)
def test_without_advantages_nothing_flows(opefo: Method, proxy: Proxy) -> None:
    one = example_batch()
    flat = replace(one, rewards=torch.ones_like(one.rewards))
    assert set(weights(opefo, EntropyFlowWeight(proxy=proxy), flat)) == {1}


@pytest.mark.parametrize("proxy", Proxy)
def test_lambda_is_within_one_and_does_not_feel_the_scale_of_the_flow(opefo: Method, proxy: Proxy) -> None:
    part = EntropyFlowWeight(proxy=proxy)
    whole = whole_of(opefo, example_batch())
    louder = replace(whole, advantages=7 * whole.advantages)
    assert part(louder).tolist() == pytest.approx(part(whole).tolist())
    assert -1 < part.batch_metrics(whole)["lambda"] < 1
    flow = part.flow(whole)
    lone = replace(whole, advantages=torch.where(flow > 0, whole.advantages, 0.0))
    assert part.batch_metrics(lone)["lambda"] == -1


def test_the_printed_proxy_gives_the_number_that_is_reported_of_it(view: Callable[..., View]) -> None:
    p = torch.tensor([0.8, 0.2], dtype=torch.float64)
    entropy = -(p * p.log()).sum().expand(2)
    tokens = view([0.2, -0.8], logprobs=p.log(), entropy=entropy)
    assert float((p * EntropyFlowWeight().flow(tokens)).sum()) == pytest.approx(-0.115340, abs=5e-7)


def test_a_likely_token_that_is_rewarded_lowers_entropy_and_a_rare_one_raises_it(
    view: Callable[..., View],
) -> None:
    # likely: log p > -H
    logprobs = torch.tensor([-0.5, -2, -0.5, -2], dtype=torch.float64)
    tokens = view([1, 1, -1, -1], logprobs=logprobs, entropy=torch.ones(4, dtype=torch.float64))
    assert EntropyFlowWeight().flow(tokens).sign().tolist() == [-1, 1, 1, -1]


def test_the_exact_proxy_is_the_slope_of_the_entropy(view: Callable[..., View]) -> None:
    # one step of a tabular softmax along its policy gradient, A (e_a - p)
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40, 11, generator=draw, dtype=torch.float64)
    target = torch.randint(0, 11, (40,), generator=draw)
    advantages = torch.randn(40, generator=draw, dtype=torch.float64)

    def entropy(z: Tensor) -> Tensor:
        log_p = torch.log_softmax(z, 1)
        return -(log_p.exp() * log_p).sum(1)

    push = torch.nn.functional.one_hot(target, 11) - torch.softmax(logits, 1)
    eta = 1e-5
    step = eta * advantages.unsqueeze(1) * push
    expected = (entropy(logits + step) - entropy(logits - step)) / (2 * eta)
    eye = torch.eye(11, dtype=torch.float64)
    stats = linear_token_stats(logits, eye, target, needs=frozenset({"sum_p2c"}), vocab_tile=4)
    assert stats.sum_p2c is not None
    seen = view(
        advantages.tolist(), logprobs=stats.logprobs, entropy=stats.entropy, old_sum_p2c=stats.sum_p2c
    )
    flow = EntropyFlowWeight(proxy=Proxy.exact).flow(seen)
    torch.testing.assert_close(flow, expected, rtol=1e-6, atol=1e-9)


def test_what_the_exact_proxy_needs_the_printed_one_does_without() -> None:
    assert EntropyFlowWeight().needs == {"old_entropy"}
    assert EntropyFlowWeight(proxy=Proxy.exact).needs == {"old_entropy", "old_sum_p2c"}


def test_more_than_one_update_is_refused(opefo: Method) -> None:
    with pytest.raises(ValueError, match=r"method\.updates_per_batch must be 1, got 4: set it to 1"):
        replace(opefo, updates_per_batch=4)


def test_a_static_lambda_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"static must be in \[-1, 1\], got 1\.5"):
        EntropyFlowWeight(static=1.5)


def test_the_preset_is_strict_and_means_over_tokens(opefo: Method) -> None:
    assert opefo.updates_per_batch == 1
    assert opefo.token_weights == {"flow": EntropyFlowWeight()}
    assert type(opefo.aggregate).__name__ == "TokenMean"
