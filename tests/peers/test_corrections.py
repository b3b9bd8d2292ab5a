"""Our weights for the mismatch of sampler and trainer are verl's, on random tables."""

from __future__ import annotations

import pytest
import torch
from tests.peers.tables import flat, method_of, random_batch, rectangle
from torch import Tensor
from verl.trainer.ppo.rollout_corr_helper import (
    compute_rollout_correction_weights,
    compute_rollout_rejection_mask,
)

from tokensweep.loss.objective import prepare
from tokensweep.loss.tables import Batch


def mismatched(seed: int) -> Batch:
    """A batch whose token ratios to the sampler go from 0.1 to 10 and more."""
    batch = random_batch(seed)
    noise = torch.randn(batch.num_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return batch.with_columns(sampler_logprobs=batch.columns["old_logprobs"] - noise)


def padded(batch: Batch) -> tuple[Tensor, Tensor]:
    """Log ratios [R, T] of trainer to sampler and the mask of the tokens; noise beside them."""
    now = rectangle(batch, logprobs=batch.columns["sampler_logprobs"], entropy=batch.columns["old_entropy"])
    return now.old_logprobs - now.logprobs, now.mask


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("overrides", "level", "threshold"),
    [
        ("method=tis", "token", 2.0),
        ("method=tis method.token_weights.tis.level=sequence", "sequence", 2.0),
        ("method=icepop", "token", "0.5_5.0"),
        ("method=mis method.token_weights.mis.level=token", "token", "1e-12_3.0"),
        ("method=mis", "sequence", "1e-12_3.0"),
    ],
)
def test_the_weights_are_those_of_verl(seed: int, overrides: str, level: str, threshold: float | str) -> None:
    batch = mismatched(seed)
    log_ratio, mask = padded(batch)
    theirs, _ = compute_rollout_correction_weights(log_ratio, mask, level, threshold)
    ours = prepare(method_of(overrides), batch).weights
    torch.testing.assert_close(ours, flat(batch, theirs), rtol=1e-12, atol=0)
    unbounded, _ = compute_rollout_correction_weights(log_ratio, mask, level, 1e9)
    assert 0.05 < (ours != flat(batch, unbounded)).double().mean() < 0.95, "the bound must matter"


@pytest.mark.parametrize("seed", range(3))
def test_the_geometric_mask_is_that_of_verl_with_bounds_turned_over(seed: int) -> None:
    batch = mismatched(seed)
    log_ratio, mask = padded(batch)
    theirs, _ = compute_rollout_rejection_mask(log_ratio, mask, "seq_mean_k1", f"{1 / 1.5}_{1 / 0.7}")
    bounds = "method.token_weights.geo_mask.low=0.7 method.token_weights.geo_mask.high=1.5"
    ours = prepare(method_of(f"method=geo_mask {bounds}"), batch).weights
    assert torch.equal(ours, flat(batch, theirs))
    assert 0 < ours.mean() < 1
