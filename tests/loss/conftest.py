"""The simplest method, made without any configuration."""

from __future__ import annotations

import pytest

from tokensweep.loss.method import Method
from tokensweep.methods.grpo import (
    GroupNormalisedAdvantage,
    PlainSampling,
    PPOClip,
    ShuffledMinibatch,
    TokenMean,
    TokenRatio,
    UniformAllocation,
    VerifierReward,
)


@pytest.fixture
def grpo() -> Method:
    """GRPO with token mean."""
    return Method(
        name="grpo",
        updates_per_batch=2,
        allocation=UniformAllocation(),
        sampling=PlainSampling(),
        reward_terms={"verifier": VerifierReward()},
        advantage=GroupNormalisedAdvantage(),
        minibatch=ShuffledMinibatch(),
        ratio=TokenRatio(),
        surrogate=PPOClip(),
        aggregate=TokenMean(),
    )
