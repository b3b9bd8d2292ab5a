"""Methods of different papers that must agree: value and gradient, off-policy, with uneven lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tokensweep.loss.laws import example_batch, loss_and_gradient, near_old
from tokensweep.loss.method import Method
from tokensweep.loss.objective import Prepared, prepare
from tokensweep.methods.forking_tokens import EntropyWeight, SelectedMean
from tokensweep.methods.grpo import GroupNormalisedAdvantage, Std, TokenMean

GSPO_CLIP = "method/surrogate=gspo_clip"

PAIRS = {
    "Hölder's token form of order 1 is GRPO": (
        "method=holderpo_token method.aggregate.p=1",
        "method=grpo method/advantage=sample_std",
    ),
    "Hölder's sequence form of order 0 is GSPO": (
        f"method=holderpo method.ratio.p=0 method/advantage=group_normalised {GSPO_CLIP}",
        "method=gspo",
    ),
    "GSPO's token form is GSPO for one advantage per rollout": (
        "method=gspo method/ratio=sequence_token",
        "method=gspo",
    ),
    "Hölder's token form of order 0 under a log clip is GMPO": (
        "method=holderpo_token method.aggregate.p=0 method/surrogate=log_clip",
        "method=gmpo",
    ),
    "DAPO without its additions is GRPO": (
        "method=dapo method/surrogate=ppo_clip method/aggregate=rollout_mean ~method.reward_terms.overlong",
        "method=naive_grpo",
    ),
    "CISPO's mask without a cap has DAPO's gradient": (
        "method=dapo method/surrogate=cispo_masked",
        "method=dapo",
    ),
    "KL-Cov without strength is importance-weighted token mean": (
        "method=kl_cov method.regularizers.kl_cov.coef=0",
        "method=clip_cov method/surrogate=unclipped ~method.token_weights.clip_cov",
    ),
    "without strength the entropy-shaped advantage is its base": (
        "method=entropy_adv method.advantage_shapers.entropy.strength=0",
        "method=entropy_adv ~method.advantage_shapers.entropy",
    ),
}
GRADIENT_ONLY = {"CISPO's mask without a cap has DAPO's gradient"}


def prepared_by(method: Method) -> Prepared:
    batch = example_batch()
    one = torch.zeros(12, dtype=torch.int64)
    return prepare(method, replace(batch, minibatch_of=one, microbatch_of=one))


@pytest.mark.parametrize("fact", PAIRS)
def test_methods_agree(fact: str, method_of: Callable[..., Method]) -> None:
    one, other = (method_of(*overrides.split()) for overrides in PAIRS[fact])
    now = near_old(example_batch(), spread=0.5)
    got, expected = (loss_and_gradient(method, prepared_by(method), now) for method in (one, other))
    if fact not in GRADIENT_ONLY:
        torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])
    assert expected[1].abs().sum() > 0


def test_leave_one_out_is_the_centred_advantage_times_g_over_g_minus_one(
    method_of: Callable[..., Method],
) -> None:
    # groups of 4: 4/3
    rloo = method_of("method=rloo", "~method.token_rewards.kl", "method.updates_per_batch=8")
    centred = replace(rloo, advantage=GroupNormalisedAdvantage(std=Std.none))
    now = near_old(example_batch(), spread=0.5)
    (value, gradient), (base, slope) = (
        loss_and_gradient(method, prepared_by(method), now) for method in (rloo, centred)
    )
    torch.testing.assert_close(value, base * 4 / 3)
    torch.testing.assert_close(gradient, slope * 4 / 3)


def test_the_authors_80_20_loss_is_trls_divided_by_the_kept_share(method_of: Callable[..., Method]) -> None:
    # 71 tokens: a fifth, rounded up, is 15; TRL divides by all tokens, the authors by the kept ones
    authors = method_of("method=forking_tokens")
    trl = replace(authors, aggregate=TokenMean())
    now = near_old(example_batch(), spread=0.5)
    (value, gradient), (base, slope) = (
        loss_and_gradient(method, prepared_by(method), now) for method in (authors, trl)
    )
    torch.testing.assert_close(value, base * 71 / 15)
    torch.testing.assert_close(gradient, slope * 71 / 15)


def test_the_80_20_gradient_is_the_dense_one_divided_by_the_share_on_kept_tokens(
    method_of: Callable[..., Method],
) -> None:
    authors = method_of("method=forking_tokens")
    dense = replace(authors, token_weights={}, aggregate=TokenMean())
    now = near_old(example_batch(), spread=0.5)
    kept = prepared_by(authors).weights != 0
    gradient = loss_and_gradient(authors, prepared_by(authors), now)[1]
    slope = loss_and_gradient(dense, prepared_by(dense), now)[1]
    torch.testing.assert_close(gradient, torch.where(kept, slope * 71 / 15, 0.0))
    assert authors.aggregate == SelectedMean()
    assert authors.token_weights == {"entropy": EntropyWeight(fraction=0.2)}
