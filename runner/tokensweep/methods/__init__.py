"""One module per paper; importing this package registers all of their components."""

from tokensweep.methods import cispo, dapo, forking_tokens, grpo, holderpo

__all__ = ["cispo", "dapo", "forking_tokens", "grpo", "holderpo"]
