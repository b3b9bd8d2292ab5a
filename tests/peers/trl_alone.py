"""TRL's trainers, imported without vLLM: TRL 1.16 wants an older one, and nothing is drawn here."""

from __future__ import annotations

from trl import import_utils


def _no_vllm(min_version: str | None = None) -> bool:
    return False


import_utils.is_vllm_available = _no_vllm  # before the trainers are imported, which ask for it

from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer  # noqa: E402  as said above

__all__ = ["GRPOConfig", "GRPOTrainer", "RLOOConfig", "RLOOTrainer"]
