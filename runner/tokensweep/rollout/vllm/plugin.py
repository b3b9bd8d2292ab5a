"""What vLLM's processes load of tokensweep, by the entry point ``vllm.general_plugins``."""

from __future__ import annotations

FILE_BACKEND = "tokensweep_file"


def register() -> None:
    """Make ``WeightTransferConfig(backend="tokensweep_file")`` known; may be called more than once."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if FILE_BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            FILE_BACKEND, "tokensweep.rollout.vllm.file_transfer", "FileWeightTransferEngine"
        )
