"""Our losses give verl's numbers: value and gradient, on random tables with ratios beyond every bound."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from tests.peers.tables import Case
from tests.peers.verl_losses import NO_DUAL_CLIP, advantages, loss

GRPO = advantages("grpo")
HOLDER_GRPO = advantages("grpo", epsilon=1e-8)  # eps of HölderPO's code, which the presets take
SEQ, TOKEN = "seq-mean-token-mean", "token-mean"
SAMPLE_STD = "method/advantage=sample_std method.advantage.eps=1e-6"
LENGTHS = 1e-7  # verl's modes seq-mean-token-mean add 1e-8 to every length

CASES = (
    Case(
        ours=f"method=grpo method.updates_per_batch=2 {SAMPLE_STD}",
        peer=f"grpo, vanilla, {SEQ}",
        loss=loss("vanilla", mode=SEQ, advantages=GRPO, clip_ratio_c=NO_DUAL_CLIP),
        within=LENGTHS,
        difference="dual clip off",
    ),
    Case(
        ours=f"method=dapo {SAMPLE_STD}",
        peer=f"grpo, vanilla, {TOKEN}, clip-higher",
        loss=loss("vanilla", mode=TOKEN, advantages=GRPO, clip_ratio_high=0.28, clip_ratio_c=NO_DUAL_CLIP),
        difference="dual clip off",
    ),
    Case(
        ours=f"method=dapo {SAMPLE_STD} method.advantage.std=none",
        peer=f"grpo without std, vanilla, {TOKEN}, clip-higher",
        loss=loss(
            "vanilla",
            mode=TOKEN,
            advantages=advantages("grpo", norm_adv_by_std_in_grpo=False),
            clip_ratio_high=0.28,
            clip_ratio_c=NO_DUAL_CLIP,
        ),
        difference="dual clip off",
    ),
    Case(
        ours=f"method=cispo {SAMPLE_STD}",
        peer=f"grpo, cispo, {TOKEN}",
        loss=loss("cispo", mode=TOKEN, advantages=GRPO, clip_ratio_low=1.0, clip_ratio_high=4.0),
        difference="cap counted from 1; lower bound at 0",
    ),
    Case(
        ours="method=holderpo method.ratio.p=0",
        peer=f"grpo, gspo, {SEQ}",
        loss=loss("gspo", mode=SEQ, advantages=HOLDER_GRPO),
        within=LENGTHS,
    ),
    Case(
        ours="method=holderpo_token method.aggregate.p=1",
        peer=f"grpo, vanilla, {SEQ}",
        loss=loss("vanilla", mode=SEQ, advantages=HOLDER_GRPO, clip_ratio_c=NO_DUAL_CLIP),
        within=LENGTHS,
        difference="dual clip off",
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
        scale=lambda batch: 2.0,
        within=LENGTHS,
        difference="bounds in log space; verl adds the means of its micro-batches, here 2",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.ours} is {case.peer}")
def test_value_and_gradient_are_those_of_verl(
    case: Case, record_property: Callable[[str, object], None]
) -> None:
    distances = [case.distance(seed) for seed in range(5)]
    record_property("compared", (case, "verl", distances))
    assert max(max(pair) for pair in distances) <= case.within, distances
