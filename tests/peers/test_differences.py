"""Where a peer says something else than we do: each difference by name, with a proof.

Their docstrings are the list of differences in README.md, where ``table.py`` puts them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.peers.tables import (
    GROUP_SIZE,
    Drift,
    PeerLoss,
    Result,
    drifted,
    flat,
    method_of,
    ours,
    random_batch,
    rectangle,
    theirs,
)
from tests.peers.trl_losses import adaptive_entropy, grpo, rloo
from tests.peers.verl_losses import NO_DUAL_CLIP, Estimator, advantages, loss
from torch import Tensor

from tokensweep.loss.laws import Policies
from tokensweep.loss.method import adapt
from tokensweep.loss.objective import prepare
from tokensweep.loss.slots import Memory
from tokensweep.loss.tables import Batch
from tokensweep.methods import kl
from tokensweep.methods.entropy_bonus import EntropyTarget

VERL_STD = "method/advantage=sample_std method.advantage.eps=1e-6"
TRL_STD = "method/advantage=sample_std method.advantage.eps=1e-4"
GRPO = advantages("grpo")
SEQ, TOKEN = "seq-mean-token-mean", "token-mean"


def pair(overrides: str, peer: PeerLoss, batch: Batch, now: Policies) -> tuple[Result, Result]:
    return ours(method_of(overrides), batch, now), theirs(peer, batch, now)


def close(a: Tensor, b: Tensor, *, within: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=within)


def ratios(batch: Batch, now: Policies) -> Tensor:
    return (now.logprobs - batch.columns["old_logprobs"]).exp()


def test_verl_always_clips_twice() -> None:
    """verl's ``vanilla`` loss has the dual clip, at 3 unless told otherwise, and no switch for it: a token
    with A < 0 and a ratio above 3 has no gradient there. Our ``ppo_clip`` has none, ``dual_clip`` has it."""
    batch = random_batch(0)
    now = drifted(batch, 0)
    mine, verl = pair(f"method=naive_grpo {VERL_STD}", loss("vanilla", mode=SEQ, advantages=GRPO), batch, now)
    good = prepare(method_of(f"method=naive_grpo {VERL_STD}"), batch).advantages >= 0
    beyond = ~good & (ratios(batch, now) > 3)
    assert beyond.any()
    assert (verl.by_logprobs[beyond] == 0).all()
    assert (mine.by_logprobs[beyond] > 0).all()
    close(mine.by_logprobs[~beyond], verl.by_logprobs[~beyond], within=1e-7)


def test_verl_adds_a_hundred_millionth_to_every_length() -> None:
    """verl's ``seq-mean-token-mean`` divides by ``length + 1e-8``: a relative difference of 1e-8 at most."""
    batch = random_batch(0)
    now = drifted(batch, 0)
    peer = loss("vanilla", mode=SEQ, advantages=GRPO, clip_ratio_c=NO_DUAL_CLIP)
    mine, verl = pair(f"method=naive_grpo {VERL_STD}", peer, batch, now)
    lengths = batch.lengths[batch.rollout_of].double()
    close(mine.by_logprobs * lengths / (lengths + 1e-8), verl.by_logprobs, within=1e-15)


def test_the_paper_leaves_the_standard_deviation_open() -> None:
    """``method=grpo`` takes the population's standard deviation, verl and TRL the sample's: in a group of G
    our advantages are sqrt(G / (G - 1)) times theirs. ``method/advantage=sample_std`` is theirs."""
    batch = random_batch(0)
    mine = prepare(method_of("method=grpo method.advantage.eps=1e-12"), batch).advantages
    verl = verl_advantages(batch, advantages("grpo", epsilon=1e-12))
    close(mine, verl * math.sqrt(GROUP_SIZE / (GROUP_SIZE - 1)))


def verl_advantages(batch: Batch, estimator: Estimator) -> Tensor:
    now = drifted(batch, 0)
    return flat(batch, estimator(rectangle(batch, logprobs=now.logprobs, entropy=now.entropy)))


@pytest.mark.parametrize(("method", "estimator"), [("grpo", "grpo"), ("rloo", "rloo")])
def test_verl_gives_a_lone_rollout_its_raw_reward(method: str, estimator: str) -> None:
    """A group of one rollout gets the raw reward as its advantage from verl's ``grpo`` and ``rloo``, and 0
    from us (and from verl's own ``rloo_vectorized``): there is nothing to compare it with."""
    batch = random_batch(0)
    alone = replace(batch, prompt_of=torch.arange(batch.num_rollouts))
    assert (method_of(f"method={method}").advantage(alone) == 0).all()
    raw = alone.rewards[alone.rollout_of]
    close(verl_advantages(alone, advantages(estimator)), raw, within=2e-6)  # divided by 1 + 1e-6
    assert (verl_advantages(alone, advantages("rloo_vectorized")) == 0).all()


@pytest.mark.parametrize(
    ("peer", "held"),
    [
        (loss("vanilla", mode=TOKEN, advantages=GRPO, clip_ratio_c=NO_DUAL_CLIP), True),
        (loss("clip_cov", mode=TOKEN, advantages=GRPO), False),
        (loss("kl_cov", mode=TOKEN, advantages=GRPO), False),
        (loss("geo_mean", mode=TOKEN, advantages=GRPO), False),
        (grpo(loss_type="dapo"), False),
    ],
    ids=["verl vanilla", "verl clip_cov", "verl kl_cov", "verl geo_mean", "TRL"],
)
def test_log_ratios_are_held_within_twenty_nats(peer: PeerLoss, held: bool) -> None:
    """Our log ratio is held within ±20 nats, as in verl's ``vanilla``; TRL and verl's ``clip_cov``,
    ``kl_cov`` and ``geo_mean`` let it grow."""
    batch = random_batch(0)
    bad = bad_rollout(batch)
    now = moved(batch, bad, by=25)
    mine, there = pair("method=dapo", peer, batch, now)
    assert (mine.by_logprobs[bad] == 0).all()
    assert (there.by_logprobs[bad] == 0).all() == held


def test_verl_holds_the_ratio_of_gspo_within_ten_nats() -> None:
    """verl's ``gspo`` holds the log ratio of a rollout below +10 nats, ours that of each token within ±20."""
    batch = random_batch(0)
    bad = bad_rollout(batch)
    mine, verl = pair("method=gspo", loss("gspo", mode=SEQ, advantages=GRPO), batch, moved(batch, bad, by=15))
    assert (verl.by_logprobs[bad] == 0).all()
    assert (mine.by_logprobs[bad] > 0).all()


def bad_rollout(batch: Batch) -> Tensor:
    """The tokens [N] bool of the first rollout with a negative advantage."""
    negative = prepare(method_of("method=naive_grpo"), batch).advantages < 0
    return batch.rollout_of == batch.rollout_of[negative][0]


def moved(batch: Batch, tokens: Tensor, *, by: float) -> Policies:
    """The policy that sampled, some nats higher on these tokens."""
    return Policies(batch.columns["old_logprobs"] + by * tokens, batch.columns["old_entropy"])


def test_trl_divides_by_the_mean_size_of_a_mini_batch() -> None:
    """TRL's ``dapo`` and ``cispo`` divide by the tokens of the rollout batch over its number of mini-batches,
    we by those of the mini-batch itself: a short mini-batch gets a smaller step from TRL."""
    batch = random_batch(0, minibatches=2)
    now = drifted(batch, 0)
    peer = grpo(loss_type="dapo", updates=2, epsilon_high=0.28)
    mine, trl = pair(f"method=dapo {TRL_STD}", peer, batch, now)
    of = batch.minibatch_of[batch.rollout_of]
    share = torch.bincount(of) / (batch.num_tokens / 2)
    assert share[0] != share[1]
    close(mine.by_logprobs * share.double()[of], trl.by_logprobs, within=1e-7)  # float32 division there


def test_trl_divides_the_selected_by_all_tokens() -> None:
    """With ``top_entropy_quantile`` TRL still divides by all tokens, the paper and our ``selected_mean`` by
    the selected ones: ours times the kept share is TRL's, ``method/aggregate=token_mean`` is TRL's."""
    batch = random_batch(0, micro_batches=1)
    now = drifted(batch, 0, drift=Drift.none)
    mine, trl = pair(f"method=forking_tokens {TRL_STD}", top(0.2), batch, now)
    kept = math.ceil(0.2 * batch.num_tokens) / batch.num_tokens
    close(mine.by_logprobs * kept, trl.by_logprobs)


def top(fraction: float) -> PeerLoss:
    return grpo(loss_type="dapo", top_entropy_quantile=fraction, epsilon_high=0.28)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.5, 0.8])
def test_trl_rounds_the_number_of_selected_tokens_differently(fraction: float) -> None:
    """Of n tokens we keep ceil(rho n), as the paper's code; TRL keeps what reaches the interpolated quantile
    of order 1 - rho: floor(rho n + 1 - rho). At rho 0.2 this is the same number for every n."""
    batch = random_batch(0, micro_batches=1)
    batch = replace(batch, rewards=torch.arange(batch.num_rollouts).double() ** 2)  # no advantage of 0
    now = drifted(batch, 0, drift=Drift.none)
    selected = theirs(top(fraction), batch, now).by_logprobs != 0
    n = batch.num_tokens
    assert int(selected.sum()) == math.floor(fraction * n + 1 - fraction + 1e-9)
    method = method_of(f"method=forking_tokens method.token_weights.entropy.fraction={fraction}")
    assert int(prepare(method, batch).weights.sum()) == math.ceil(fraction * n - 1e-9)


def test_trl_keeps_every_tie() -> None:
    """Among equal entropies TRL keeps all that reach the quantile, however many; we keep exactly the share,
    earlier tokens first."""
    batch = random_batch(0, micro_batches=1)
    batch = replace(batch, rewards=torch.arange(batch.num_rollouts).double() ** 2)  # no advantage of 0
    batch = batch.with_columns(old_entropy=torch.full((batch.num_tokens,), 0.5, dtype=torch.float64))
    selected = theirs(top(0.2), batch, drifted(batch, 0, drift=Drift.none)).by_logprobs != 0
    assert selected.all()
    weights = prepare(method_of("method=forking_tokens"), batch).weights
    assert int(weights.sum()) == math.ceil(0.2 * batch.num_tokens)


def test_verl_adds_the_means_of_its_micro_batches_up() -> None:
    """verl's ``geo_mean`` (GMPO) is a mean over the rollouts of a micro-batch, and its engine adds those
    means: the gradient grows with the number of micro-batches. Ours is the mean over the mini-batch."""
    peer = loss(
        "geo_mean",
        mode=SEQ,
        advantages=advantages("grpo", epsilon=1e-8),
        clip_ratio_low=0.4,
        clip_ratio_high=0.4,
    )
    for number in (1, 2, 4):
        batch = random_batch(0, micro_batches=number)
        mine, verl = pair("method=gmpo", peer, batch, drifted(batch, 0))
        close(number * mine.by_logprobs, verl.by_logprobs, within=1e-7)


def test_verl_ignores_the_dual_clip_of_its_clip_cov_recipe() -> None:
    """verl's ``clip_cov`` never reads ``clip_ratio_c``, which the recipe sets to 10: bad tokens of any ratio
    keep their gradient. So does the authors' code, and our preset."""
    batch = random_batch(0)
    now = drifted(batch, 0)
    wide: dict[str, Any] = {"mode": TOKEN, "advantages": GRPO, "clip_ratio_low": 1.0, "clip_ratio_high": 1.0}
    results = []
    for cap in (10.0, NO_DUAL_CLIP):
        with torch.random.fork_rng():  # verl draws from the global generator
            torch.manual_seed(0)
            results.append(theirs(loss("clip_cov", clip_ratio_c=cap, **wide), batch, now))
    ten, none = results
    assert torch.equal(ten.by_logprobs, none.by_logprobs)
    beyond = (verl_advantages(batch, GRPO) < 0) & (ratios(batch, now) > 10)
    assert beyond.any()
    assert (ten.by_logprobs[beyond] > 0).all()


def test_verl_has_a_lower_bound_in_cispo() -> None:
    """verl's ``cispo`` raises weights below ``1 - clip_ratio_low``, 0.8 unless told otherwise; the paper and
    we have no lower bound."""
    batch = random_batch(0)
    now = drifted(batch, 0)
    peer = loss("cispo", mode=TOKEN, advantages=GRPO, clip_ratio_high=4.0)
    mine, verl = pair(f"method=cispo {VERL_STD}", peer, batch, now)
    ratio = ratios(batch, now)
    assert (ratio < 0.8).any()
    close(mine.by_logprobs / ratio.clamp(max=5) * ratio.clamp(0.8, 5), verl.by_logprobs)


def test_verl_limits_k3() -> None:
    """verl's ``low_var_kl`` is cut at 10 nats, beyond which it has no gradient; ours and TRL's is not."""
    batch = random_batch(0)
    reference = batch.columns["ref_logprobs"].clone()
    reference[::5] += 3.5  # k3 = exp(3.5 ...) - ... is about 30
    batch = batch.with_columns(ref_logprobs=reference)
    now = drifted(batch, 0, drift=Drift.near)
    peer = loss("vanilla", mode=SEQ, advantages=GRPO, kl=("low_var_kl", 0.04), clip_ratio_c=NO_DUAL_CLIP)
    overrides = f"method=grpo_kl method.updates_per_batch=2 {VERL_STD}"
    mine, verl = pair(overrides, peer, batch, now)
    far = kl.divergence(kl.Estimator.k3, now.logprobs, reference) > 10
    assert far.any()
    close(mine.by_logprobs[~far], verl.by_logprobs[~far], within=1e-7)
    plain = ours(method_of(f"method=naive_grpo {VERL_STD}"), batch, now)
    close(plain.by_logprobs[far], verl.by_logprobs[far], within=1e-7)


def test_trl_means_the_entropy_over_each_micro_batch() -> None:
    """TRL's entropy bonus is the mean over micro-batches of the mean over their tokens, ours and verl's the
    mean over the tokens of the mini-batch."""
    batch = random_batch(0)
    now = drifted(batch, 0)
    mine, trl = pair("method=entropy_bonus", grpo(loss_type="dapo", entropy_coef=0.001), batch, now)
    of = batch.microbatch_of[batch.rollout_of]
    sizes = torch.bincount(of)
    assert sizes[0] != sizes[1]
    close(mine.by_entropy, torch.full_like(mine.by_entropy, -0.001 / batch.num_tokens))
    close(trl.by_entropy, -0.001 / (2 * sizes[of].double()))


def test_trl_gates_the_adaptive_bonus_by_the_step_before() -> None:
    """The coefficients of ``entropy_target`` are TRL's. Whether the bonus acts is decided there by the
    entropy of the step before (the first step has none), here by that of the batch in hand."""
    scales = (0.3, 0.2, 1.0, 0.9, 0.3, 0.3, 1.0)  # of entropies with mean 0.5, around the target 0.2
    batches = [
        batch.with_columns(old_entropy=scale * batch.columns["old_entropy"])
        for batch, scale in ((random_batch(seed, micro_batches=1), s) for seed, s in enumerate(scales))
    ]
    entropies = [batch.columns["old_entropy"].clone().requires_grad_() for batch in batches]
    tables = [
        rectangle(batch, logprobs=batch.columns["old_logprobs"].clone().requires_grad_(), entropy=entropy)
        for batch, entropy in zip(batches, entropies, strict=True)
    ]
    steps = adaptive_entropy(tables, loss_type="dapo", entropy_coef=0.01, entropy_target=0.2)
    method = method_of("method=entropy_target method.regularizers.entropy.coef=0.01")
    memories: dict[str, Memory] = {}
    before, was_low = 0.01, False
    for batch, entropy, (trl_loss, after) in zip(batches, entropies, steps, strict=True):
        acting, memories = adapt(method, memories, batch)
        (gradient,) = torch.autograd.grad(trl_loss, entropy)
        applied = float(-gradient[0] * batch.num_tokens)
        bonus = acting.regularizers["entropy"]
        assert isinstance(bonus, EntropyTarget)
        is_low = float(entropy.detach().mean()) <= 0.2
        assert memories["regularizers.entropy"]["coef"] == pytest.approx(after)
        assert applied == pytest.approx(before if was_low else 0.0)
        assert bonus.coef == pytest.approx(before if is_low else 0.0)
        before, was_low = after, is_low


def test_trl_takes_a_rollout_of_rloo_for_one_action() -> None:
    """TRL's ``RLOOTrainer`` takes the product of a rollout's token ratios and clips it as one number. Ours
    clips token ratios; both sum over a rollout's tokens, so that on-policy the gradient is the same."""
    batch = random_batch(0)
    now = drifted(batch, 0, drift=Drift.near)
    prepared = prepare(method_of("method=rloo"), batch)
    first = batch.lengths.cumsum(0) - batch.lengths
    advantage = prepared.advantages[first]
    product = batch.by_rollout(now.logprobs - batch.columns["old_logprobs"]).exp()
    expected = -torch.minimum(product * advantage, product.clamp(0.8, 1.2) * advantage).mean()
    assert ((product - 1).abs() > 0.2).any()
    close(theirs(rloo(beta=0.03), batch, now).loss, expected)
