"""Every random number of a run comes from a seed derived here, so a resumed run draws the same ones."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order, and on nothing else.

    ``derive_seed(seed, "rollout", step, prompt_id, sample)`` is the same on any machine, in any batch
    and on any number of devices.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
