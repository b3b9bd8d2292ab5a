"""One module per paper; importing this package registers all of their components."""

from tokensweep.methods import (
    cispo,
    covariance,
    dapo,
    dr_grpo,
    dual_clip,
    entropy_adv,
    entropy_bonus,
    forking_tokens,
    gmpo,
    grpo,
    gspo,
    holderpo,
    kl,
    reinforce_pp,
    rloo,
    sampler_correction,
)

__all__ = [
    "cispo",
    "covariance",
    "dapo",
    "dr_grpo",
    "dual_clip",
    "entropy_adv",
    "entropy_bonus",
    "forking_tokens",
    "gmpo",
    "grpo",
    "gspo",
    "holderpo",
    "kl",
    "reinforce_pp",
    "rloo",
    "sampler_correction",
]
