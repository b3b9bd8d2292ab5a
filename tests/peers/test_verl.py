"""Our losses give verl's numbers: value and gradient, from rewards on, on random tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.peers.tables import GROUP_SIZE, MAX_TOKENS, Case, Drift, Rectangle
from tests.peers.verl_losses import NO_DUAL_CLIP, Estimator, advantages, loss
from torch import Tensor

SEQ, TOKEN = "seq-mean-token-mean", "token-mean"
SAMPLE_STD = "method/advantage=sample_std method.advantage.eps=1e-6"
TWO_UPDATES = "method.updates_per_batch=2"  # with one, bounds and penalties that need a ratio are refused
NEARLY = 1e-6  # verl adds 1e-8 to lengths and counts that it divides by
PLAIN: dict[str, Any] = {"clip_ratio_c": NO_DUAL_CLIP}
HIGHER: dict[str, Any] = {"clip_ratio_high": 0.28}
GRPO = advantages("grpo")
CENTRED = advantages("grpo", norm_adv_by_std_in_grpo=False)
HOLDER_GRPO = advantages("grpo", epsilon=1e-8)  # eps of HölderPO's code, which its presets take
KL_AT_TOKENS = "+method/token_rewards@method.token_rewards.kl=kl"


def entropy_shaped(estimator: Estimator) -> Estimator:
    """Advantages plus ``min(0.4 H, |A| / 2)``, arXiv:2506.14758, which verl does not have."""

    def shaped(table: Rectangle) -> Tensor:
        plain = estimator(table)
        return plain + torch.minimum(0.4 * table.entropy.detach(), plain.abs() / 2)

    return shaped


# Every candidate loses its gradient, so that no random number decides which.
ALL_CANDIDATES = (
    "method.token_weights.clip_cov.share=1 method.token_weights.clip_cov.lowest=0.2 "
    "method.token_weights.clip_cov.highest=2"
)
CLIP_COV = loss(
    "clip_cov",
    mode=TOKEN,
    advantages=GRPO,
    clip_ratio_low=1.0,
    clip_ratio_high=1.0,
    policy_loss={"clip_cov_ratio": 1.0, "clip_cov_lb": 0.2, "clip_cov_ub": 2.0},
)
KL_COV = loss("kl_cov", mode=TOKEN, advantages=GRPO, policy_loss={"kl_cov_ratio": 0.1, "ppo_kl_coef": 1.0})

CASES = (
    Case(
        ours=f"method=naive_grpo {SAMPLE_STD}",
        peer=f"grpo, vanilla, {SEQ}",
        loss=loss("vanilla", mode=SEQ, advantages=GRPO, **PLAIN),
        within=NEARLY,
        difference="verl's dual clip off",
    ),
    Case(
        ours="method=naive_grpo method.advantage.eps=1e-12",
        peer=f"grpo, vanilla, {SEQ}",
        loss=loss("vanilla", mode=SEQ, advantages=advantages("grpo", epsilon=1e-12), **PLAIN),
        scale=lambda batch: math.sqrt((GROUP_SIZE - 1) / GROUP_SIZE),
        within=NEARLY,
        difference="population std: ours times sqrt((G - 1) / G) is equal; verl's dual clip off",
    ),
    Case(
        ours=f"method=dapo {SAMPLE_STD}",
        peer=f"grpo, vanilla, {TOKEN}, clip-higher",
        loss=loss("vanilla", mode=TOKEN, advantages=GRPO, **HIGHER, **PLAIN),
        difference="verl's dual clip off",
    ),
    Case(
        ours=f"method=dapo_recipe {SAMPLE_STD}",
        peer=f"grpo, vanilla, {TOKEN}, clip-higher, dual clip 10",
        loss=loss("vanilla", mode=TOKEN, advantages=GRPO, clip_ratio_c=10.0, **HIGHER),
    ),
    Case(
        ours=f"method=naive_grpo method/surrogate=dual_clip {SAMPLE_STD}",
        peer=f"grpo, vanilla as it comes (dual clip 3), {SEQ}",
        loss=loss("vanilla", mode=SEQ, advantages=GRPO),
        within=NEARLY,
    ),
    Case(
        ours="method=dr_grpo",
        peer="grpo without std, vanilla, seq-mean-token-sum-norm",
        loss=loss(
            "vanilla", mode="seq-mean-token-sum-norm", advantages=CENTRED, scale_factor=MAX_TOKENS, **PLAIN
        ),
        difference="verl's dual clip off, its loss_scale_factor set to the generation budget",
    ),
    Case(
        ours="method=dr_grpo method.aggregate.length=1",
        peer="grpo without std, vanilla, seq-mean-token-sum",
        loss=loss("vanilla", mode="seq-mean-token-sum", advantages=CENTRED, **PLAIN),
        difference="verl's dual clip off",
    ),
    Case(
        ours=f"method=cispo {SAMPLE_STD}",
        peer=f"grpo, cispo, {TOKEN}",
        loss=loss("cispo", mode=TOKEN, advantages=GRPO, clip_ratio_low=1.0, clip_ratio_high=4.0),
        difference="verl counts the cap of 5 from 1; its lower bound at 0",
    ),
    Case(
        ours=f"method=gspo {SAMPLE_STD}",
        peer=f"grpo, gspo, {SEQ}",
        loss=loss("gspo", mode=SEQ, advantages=GRPO, clip_ratio_low=3e-4, clip_ratio_high=4e-4),
        within=NEARLY,
    ),
    Case(
        ours=f"method=gspo method/ratio=sequence_token {SAMPLE_STD}",
        peer=f"grpo, gspo, {SEQ}",
        loss=loss("gspo", mode=SEQ, advantages=GRPO, clip_ratio_low=3e-4, clip_ratio_high=4e-4),
        within=NEARLY,
    ),
    Case(
        ours=f"method=sapo {SAMPLE_STD}",
        peer=f"grpo, sapo, {SEQ}",
        loss=loss("sapo", mode=SEQ, advantages=GRPO),
        within=NEARLY,
    ),
    *(
        Case(
            ours=f"method={ours}",
            peer=f"grpo without std, {name}, seq-mean-token-sum-norm",
            loss=loss(
                name,
                mode="seq-mean-token-sum-norm",
                advantages=CENTRED,
                scale_factor=MAX_TOKENS,
                clip_ratio_low=bound,
                clip_ratio_high=bound,
                clip_ratio_c=20.0,
            ),
            difference="verl's loss_scale_factor set to the generation budget",
        )
        for ours, name, bound in (("dppo", "dppo_tv", 0.15), ("dppo_kl", "dppo_kl", 0.05))
    ),
    Case(
        ours="method=holderpo method.ratio.p=0",
        peer=f"grpo, gspo, {SEQ}",
        loss=loss("gspo", mode=SEQ, advantages=HOLDER_GRPO),
        within=NEARLY,
    ),
    Case(
        ours="method=holderpo_token method.aggregate.p=1",
        peer=f"grpo, vanilla, {SEQ}",
        loss=loss("vanilla", mode=SEQ, advantages=HOLDER_GRPO, **PLAIN),
        within=NEARLY,
        difference="verl's dual clip off",
    ),
    Case(
        ours="method=gmpo",
        peer="grpo, geo_mean",
        loss=loss("geo_mean", mode=SEQ, advantages=HOLDER_GRPO, clip_ratio_low=0.4, clip_ratio_high=0.4),
        scale=lambda batch: 2.0,
        within=NEARLY,
        difference="verl adds the means of its micro-batches: ours times their number, 2, is equal",
    ),
    Case(
        ours="method=holderpo_token method.aggregate.p=0",
        peer="grpo, geo_mean",
        loss=loss(
            "geo_mean",
            mode=SEQ,
            advantages=HOLDER_GRPO,
            clip_ratio_low=-math.log(1 - 0.2),
            clip_ratio_high=math.log(1 + 0.2),
        ),
        micro_batches=1,
        within=NEARLY,
        difference="verl's bounds are logarithms",
    ),
    Case(
        ours=f"method=clip_cov_as_released {ALL_CANDIDATES} {SAMPLE_STD}",
        peer=f"grpo, clip_cov, {TOKEN}",
        loss=CLIP_COV,
        difference="all candidates drawn",
    ),
    Case(
        ours=f"method=clip_cov {ALL_CANDIDATES} {SAMPLE_STD}",
        peer=f"grpo, clip_cov, {TOKEN}",
        loss=CLIP_COV,
        drift=Drift.none,
        micro_batches=1,
        difference="as above; old policy and whole batch select as current policy and micro-batch",
    ),
    Case(
        ours=f"method=kl_cov_as_released method.regularizers.kl_cov.share=0.1 {SAMPLE_STD}",
        peer=f"grpo, kl_cov, {TOKEN}",
        loss=KL_COV,
    ),
    *(
        Case(
            ours="method=rloo method/aggregate=rollout_mean",
            peer=f"{name}, vanilla, {SEQ}, k1 in the reward",
            loss=loss("vanilla", mode=SEQ, advantages=advantages(name, kl_in_reward=0.03), **PLAIN),
            within=NEARLY,
            difference="verl's dual clip off",
        )
        for name in ("rloo", "rloo_vectorized")
    ),
    Case(
        ours=f"method=reinforce_pp {TWO_UPDATES}",
        peer=f"reinforce_plus_plus, vanilla, {TOKEN}, k2 in the loss",
        loss=loss(
            "vanilla", mode=TOKEN, advantages=advantages("reinforce_plus_plus"), kl=("k2", 0.001), **PLAIN
        ),
        within=NEARLY,
        difference="verl's dual clip off",
    ),
    Case(
        ours=f"method=reinforce_pp {TWO_UPDATES} {KL_AT_TOKENS} method.advantage.gamma=0.9",
        peer=f"reinforce_plus_plus with gamma 0.9 and k1 in the reward, vanilla, {TOKEN}, k2 in the loss",
        loss=loss(
            "vanilla",
            mode=TOKEN,
            advantages=advantages("reinforce_plus_plus", kl_in_reward=0.03, gamma=0.9),
            kl=("k2", 0.001),
            **PLAIN,
        ),
        within=NEARLY,
        difference="verl's dual clip off",
    ),
    Case(
        ours=f"method=reinforce_pp_baseline {TWO_UPDATES}",
        peer=f"reinforce_plus_plus_baseline, vanilla, {TOKEN}, k2 in the loss",
        loss=loss(
            "vanilla",
            mode=TOKEN,
            advantages=advantages("reinforce_plus_plus_baseline"),
            kl=("k2", 0.001),
            **PLAIN,
        ),
        within=NEARLY,
        difference="verl's dual clip off",
    ),
    *(
        Case(
            ours=f"method=grpo_kl {TWO_UPDATES} method.regularizers.kl.estimator={estimator} {SAMPLE_STD}",
            peer=f"grpo, vanilla, {SEQ}, {name} in the loss",
            loss=loss("vanilla", mode=SEQ, advantages=GRPO, kl=(name, 0.04), **PLAIN),
            drift=drift,
            within=NEARLY,
            difference="verl's dual clip off" + (", k3 below its limit of 10" if estimator == "k3" else ""),
        )
        for estimator, name, drift in (
            ("k1", "kl", Drift.far),
            ("k2", "mse", Drift.far),
            ("k3", "low_var_kl", Drift.near),
        )
    ),
    Case(
        ours=f"method=entropy_bonus {SAMPLE_STD}",
        peer=f"grpo, vanilla, {TOKEN}, clip-higher, entropy_coeff 0.001",
        loss=loss("vanilla", mode=TOKEN, advantages=GRPO, entropy_coeff=0.001, **HIGHER, **PLAIN),
        difference="verl's dual clip off",
    ),
    Case(
        ours=f"method=entropy_adv {SAMPLE_STD}",
        peer=f"grpo + min(0.4 H, abs(A) / 2), vanilla, {TOKEN}, clip-higher",
        loss=loss("vanilla", mode=TOKEN, advantages=entropy_shaped(GRPO), **HIGHER, **PLAIN),
        difference="verl has no such shaper: the formula is the test's own; verl's dual clip off",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.ours} is {case.peer}")
def test_value_and_gradient_are_those_of_verl(
    case: Case, record_property: Callable[[str, object], None]
) -> None:
    distances = [case.distance(seed) for seed in range(5)]
    record_property("table_row", case.row("verl", distances))
    assert max(max(pair) for pair in distances) <= case.within, distances
