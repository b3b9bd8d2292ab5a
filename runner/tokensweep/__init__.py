"""tokensweep: one trainer for token-level RLVR methods, and the sweeps that compare them."""

__version__ = "0.1.0"
