"""ReasonMaxxer, arXiv:2605.06241: the properties that its card lists, with numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import sqrt

import pytest
import torch
from torch import Tensor

from tokensweep.loss.laws import Policies, example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method, build_method
from tokensweep.loss.objective import micro_loss, prepare
from tokensweep.loss.tables import Batch
from tokensweep.methods.grpo import GroupNormalisedAdvantage, TokenMean, UniformAllocation
from tokensweep.methods.offline import OfflineSource
from tokensweep.methods.reasonmaxxer import BaseEntropyGate, ClippedAdvantage, KLAnchor, NoRatio

Make = Callable[..., Method]
MakeBatch = Callable[..., Batch]


def gate(threshold: float, method: Method) -> Method:
    return replace(method, token_weights={"gate": BaseEntropyGate(threshold)})


def shares(method: Method, batch: Batch, divergence: list[float]) -> tuple[float, Tensor, Tensor]:
    """Loss of one micro-batch, and its gradients by log-probabilities and divergences, [N] each."""
    prepared = prepare(method, batch)
    micro = prepared.micro(torch.arange(batch.num_rollouts))
    assert torch.equal(micro.rows, torch.arange(batch.num_tokens))  # the divergence is of every token
    logprobs = batch.columns["old_logprobs"].clone().requires_grad_()
    kl = torch.tensor(divergence, dtype=torch.float64, requires_grad=True)
    entropy = torch.zeros_like(logprobs)
    loss = micro_loss(method, micro, logprobs, entropy, ref_divergence=kl).loss
    loss.backward()  # type: ignore[no-untyped-call]  # torch
    assert logprobs.grad is not None
    assert kl.grad is not None
    return float(loss.detach()), logprobs.grad, kl.grad


@pytest.fixture
def contrast(batch_of: MakeBatch) -> Batch:
    """A right rollout of 3 tokens and a wrong one of 2; decisions at tokens 0, 2 and 4."""
    entropy = [2.0, 0.1, 1.5, 1.4, 1.9]  # 1.4 is not above 1.4
    return batch_of([1, 0], lengths=[3, 2], ref_entropy=entropy, old_entropy=entropy)


def test_the_preset_holds_what_the_code_says(method_of: Make) -> None:
    method = method_of("method=reasonmaxxer")
    assert method.source == OfflineSource(problems=150, kept=50, shortest=0.8, temperature=0.6, top_p=0.95)
    assert method.token_weights == {"gate": BaseEntropyGate(threshold=1.4)}
    assert method.advantage_shapers == {"clipped": ClippedAdvantage(bound=2.5, negative=1)}
    assert method.regularizers == {"anchor": KLAnchor(coef=0.2)}
    assert method.ratio == NoRatio()
    assert method.updates_per_batch == 50 * 20 * 4 // 5 // 8


def test_decisions_carry_the_contrast_and_all_other_tokens_the_divergence(
    contrast: Batch, method_of: Make
) -> None:
    # A = 1 and -1, each rollout weighs 1/2. In the first, tokens 0 and 2 decide, half each, and token 1 is
    # held with 0.2; in the second, token 4 decides and token 3 is held.
    loss, by_logprob, by_divergence = shares(
        method_of("method=reasonmaxxer"), contrast, [9.0, 0.5, 9.0, 0.3, 9.0]
    )
    assert by_logprob.tolist() == pytest.approx([-1 / 4, 0, -1 / 4, 0, 1 / 2])
    assert by_divergence.tolist() == pytest.approx([0, 0.1, 0, 0.1, 0])
    assert loss == pytest.approx(-1 / 2 + 1 / 2 + 0.1 * 0.5 + 0.1 * 0.3)


def test_decisions_and_held_tokens_partition_the_rollouts(method_of: Make) -> None:
    method, batch = method_of("method=reasonmaxxer"), example_batch()
    for threshold in (0.0, 0.3, 0.7, 5.0):
        _, by_logprob, by_divergence = shares(
            gate(threshold, method), _one_micro(batch), [0.0] * batch.num_tokens
        )
        assert ((by_logprob != 0) ^ (by_divergence != 0)).all()


def _one_micro(batch: Batch) -> Batch:
    none = torch.zeros(batch.num_rollouts, dtype=torch.int64)
    return replace(batch, minibatch_of=none, microbatch_of=none)


def test_without_decisions_the_loss_is_the_divergence_alone(contrast: Batch, method_of: Make) -> None:
    # 0.2 * 1/2 * (mean of 3 tokens + mean of 2 tokens)
    loss, by_logprob, by_divergence = shares(
        gate(1e9, method_of("method=reasonmaxxer")), contrast, [1.0, 2.0, 3.0, 4.0, 6.0]
    )
    assert loss == pytest.approx(0.1 * (2 + 5))
    assert (by_logprob == 0).all()
    assert by_divergence.tolist() == pytest.approx([0.1 / 3] * 3 + [0.1 / 2] * 2)
    assert shares(gate(1e9, method_of("method=reasonmaxxer")), contrast, [0.0] * 5)[0] == 0


def test_tokens_without_an_advantage_are_held_whatever_their_entropy(
    batch_of: MakeBatch, method_of: Make
) -> None:
    # The second group is all right: its tokens decide nothing, so the divergence holds them.
    entropy = [2.0] * 4
    batch = batch_of([1, 0, 1, 1], lengths=[1] * 4, prompt_of=[0, 0, 1, 1], ref_entropy=entropy)
    batch = batch.with_columns(old_entropy=batch.columns["ref_entropy"])
    _, by_logprob, by_divergence = shares(method_of("method=reasonmaxxer"), batch, [0.0] * 4)
    assert by_logprob.tolist() == pytest.approx([-1 / 4, 1 / 4, 0, 0])
    assert by_divergence.tolist() == pytest.approx([0, 0, 0.05, 0.05])


@pytest.mark.parametrize(("right", "total"), [(1, 2), (2, 3), (4, 5), (7, 20)])
def test_advantages_are_those_of_the_pass_rate_and_cancel(
    right: int, total: int, batch_of: MakeBatch, method_of: Make
) -> None:
    batch = batch_of([1] * right + [0] * (total - right), lengths=[1] * total, ref_entropy=[0.0] * total)
    batch = batch.with_columns(old_entropy=batch.columns["ref_entropy"])
    advantages = prepare(method_of("method=reasonmaxxer"), batch).advantages
    p = right / total
    assert advantages.tolist() == pytest.approx(
        [sqrt((1 - p) / p)] * right + [-sqrt(p / (1 - p))] * (total - right)
    )
    assert float(advantages.sum()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("right", "total", "binds"), [(1, 8, True), (2, 14, False), (7, 8, True), (12, 14, False)]
)
def test_the_clip_binds_below_a_pass_rate_of_one_in_seven_and_a_quarter(
    right: int, total: int, binds: bool, batch_of: MakeBatch, method_of: Make
) -> None:
    # 1/8 = 0.125 < 1/7.25 = 0.138 < 1/7: sqrt(7) = 2.65 is cut, sqrt(6) = 2.45 is not; so for wrong ones
    batch = batch_of([1] * right + [0] * (total - right), lengths=[1] * total, ref_entropy=[0.0] * total)
    batch = batch.with_columns(old_entropy=batch.columns["ref_entropy"])
    advantages = prepare(method_of("method=reasonmaxxer"), batch).advantages
    assert (float(advantages.abs().max()) == 2.5) is binds


def test_wrong_rollouts_can_weigh_less_or_nothing(contrast: Batch, method_of: Make) -> None:
    method = method_of("method=reasonmaxxer")
    half = replace(method, advantage_shapers={"clipped": ClippedAdvantage(negative=0.5)})
    assert prepare(half, contrast).advantages.tolist() == [1, 1, 1, -0.5, -0.5]
    none = replace(method, advantage_shapers={"clipped": ClippedAdvantage(negative=0)})
    assert shares(none, contrast, [0.0] * 5)[1].tolist() == pytest.approx([-1 / 4, 0, -1 / 4, 0, 0])


def test_on_all_tokens_and_without_divergence_it_is_reinforce_on_frozen_samples(method_of: Make) -> None:
    # Token mean of A grad log pi, wherever the policy is by now.
    reinforce = replace(
        method_of("method=reasonmaxxer"), token_weights={}, regularizers={}, aggregate=TokenMean()
    )
    batch = _one_micro(example_batch())
    prepared = prepare(reinforce, batch)
    for spread in (0.0, 3.0):
        _, gradient = loss_and_gradient(reinforce, prepared, near_old(batch, spread=spread))
        torch.testing.assert_close(gradient, -prepared.advantages / batch.num_tokens)


def test_raising_the_threshold_nests_the_gates(method_of: Make) -> None:
    method, batch = method_of("method=reasonmaxxer"), example_batch()
    masks = [prepare(gate(t, method), batch).weights != 0 for t in (0.0, 0.2, 0.5, 0.9, 2.0)]
    for wide, narrow in pairwise(masks):
        assert (wide | ~narrow).all()
        assert wide.sum() > narrow.sum()


def test_the_gate_reads_the_base_model_only(method_of: Make) -> None:
    method, batch = gate(0.5, method_of("method=reasonmaxxer")), example_batch()
    later = batch.with_columns(
        old_logprobs=batch.columns["old_logprobs"] - 3, old_entropy=1 - batch.columns["old_entropy"]
    )
    assert torch.equal(prepare(method, batch).weights, prepare(method, later).weights)


def test_a_ratio_of_none_is_one_and_has_the_gradient_of_the_log_probability(
    batch_of: MakeBatch, pull: Callable[..., Tensor], method_of: Make
) -> None:
    # PPO's clip would leave the good token at ratio 9 without gradient; A = 1 and -1, two tokens.
    method = replace(method_of("method=grpo"), ratio=NoRatio(), advantage=GroupNormalisedAdvantage(eps=0))
    assert pull(method, batch_of([1, 0], lengths=[1, 1]), [9, 0.1]).tolist() == pytest.approx([-0.5, 0.5])


def test_its_numbers_tell_held_from_free_tokens(contrast: Batch, method_of: Make) -> None:
    method = method_of("method=reasonmaxxer")
    prepared = prepare(method, contrast)
    logprobs = contrast.columns["old_logprobs"]
    kl = torch.tensor([9.0, 0.5, 6.0, 0.3, 3.0], dtype=torch.float64)
    output = micro_loss(
        method, prepared.micro(torch.arange(2)), logprobs, torch.zeros_like(logprobs), ref_divergence=kl
    )
    told = {name: float(total / count) for name, (total, count) in output.measured.items()}
    assert told["regularizers.anchor/held"] == pytest.approx(0.4)
    assert told["regularizers.anchor/free"] == pytest.approx(6)
    assert prepared.measured["token_weights.gate/share"] == pytest.approx(3 / 5)
    assert prepared.measured["token_weights.gate/base_entropy"] == pytest.approx((2 + 1.5 + 1.9) / 3)


def test_the_divergence_may_hold_every_token(contrast: Batch, method_of: Make) -> None:
    method = replace(
        method_of("method=reasonmaxxer"), regularizers={"anchor": KLAnchor(coef=1, everywhere=True)}
    )
    assert shares(method, contrast, [0.0] * 5)[2].tolist() == pytest.approx([1 / 6] * 3 + [1 / 4] * 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BaseEntropyGate(-1), "threshold must be at least 0 nats, got -1"),
        (lambda: ClippedAdvantage(bound=0), "bound must be positive and negative at least 0, got 0 and 1"),
        (lambda: KLAnchor(coef=-1), "coef must be at least 0, got -1"),
        (lambda: OfflineSource(kept=200), "kept must lie between 1 and problems=150, got 200"),
        (lambda: OfflineSource(shortest=0), r"shortest must be in \(0, 1\], got 0"),
        (lambda: OfflineSource(temperature=0), "temperature must be above 0"),
    ],
)
def test_values_out_of_range_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_what_does_not_go_with_frozen_samples_is_refused(
    method_node: Callable[..., dict[str, object]], method_of: Make
) -> None:
    assert method_of("method=reasonmaxxer").allocation == UniformAllocation()
    for overrides, said in (
        (("method=reasonmaxxer", "method/allocation=dynamic_sampling"), "nothing to allocate in a step"),
        (("method=[reasonmaxxer,mixed_cuts]",), "no rule by which to draw"),
        (("method=[reasonmaxxer,tis]",), "compares the sampler with the policy that sampled"),
    ):
        with pytest.raises(ValueError, match=said):
            build_method(method_node(*overrides))


def test_a_policy_far_away_keeps_finite_losses(method_of: Make) -> None:
    method, batch = method_of("method=reasonmaxxer"), example_batch()
    far = Policies(batch.columns["old_logprobs"] - 4000, batch.columns["old_entropy"])
    for result in loss_and_gradient(method, prepare(method, batch), far):
        assert result.isfinite().all()
