"""The comparisons can fail: their tables reach what is compared, and another setting is noticed."""

from __future__ import annotations

import pytest
import torch
from tests.peers.tables import Case, PeerLoss, drifted, flat, method_of, ours, random_batch, rectangle, theirs
from tests.peers.trl_losses import grpo
from tests.peers.verl_losses import NO_DUAL_CLIP, advantages, loss

from tokensweep.loss.objective import prepare

DAPO = "method=dapo method/advantage=sample_std"


@pytest.mark.parametrize("seed", range(5))
def test_both_signs_of_the_advantage_meet_ratios_beyond_every_bound(seed: int) -> None:
    batch = random_batch(seed)
    ratios = (drifted(batch, seed).logprobs - batch.columns["old_logprobs"]).exp()
    advantages = prepare(method_of(DAPO), batch).advantages
    for sign in (-1, 1):
        there = ratios[advantages.sign() == sign]
        assert there.min() < 0.5
        assert there.max() > 3
    assert (advantages == 0).any()


def test_a_rectangle_holds_the_columns_and_nothing_but_noise_beside_them() -> None:
    batch = random_batch(0)
    now = drifted(batch, 0)
    table = rectangle(batch, logprobs=now.logprobs, entropy=now.entropy)
    assert torch.equal(flat(batch, table.logprobs), now.logprobs)
    assert torch.equal(flat(batch, table.old_logprobs), batch.columns["old_logprobs"])
    assert torch.equal(table.mask.sum(1).long(), batch.lengths)
    assert (table.old_logprobs[table.mask == 0] != 0).all()


@pytest.mark.parametrize(
    "peer",
    [
        loss("vanilla", mode="token-mean", advantages=advantages("grpo"), clip_ratio_c=NO_DUAL_CLIP),
        grpo(loss_type="dapo"),
    ],
    ids=["verl", "TRL"],
)
def test_a_bound_that_differs_is_noticed(peer: PeerLoss) -> None:
    # clip-higher here, 0.2 there
    case = Case(ours=DAPO, peer="", loss=peer)
    value, gradient = case.distance(0)
    assert value > 1e-3
    assert gradient > 1e-3


def test_a_loss_that_is_compared_is_not_zero() -> None:
    batch = random_batch(0)
    result = ours(method_of(DAPO), batch, drifted(batch, 0))
    assert result.loss.abs() > 1e-3
    assert theirs(grpo(loss_type="dapo"), batch, drifted(batch, 0)).by_logprobs.abs().max() > 1e-3
