"""vLLM's side of a weight update through a safetensors file, for machines without NCCL and CUDA IPC.

Runs inside vLLM's worker; the trainer's side is :class:`tokensweep.rollout.vllm.weights.FileTransfer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)


@dataclass
class FileInitInfo(WeightTransferInitInfo):  # type: ignore[misc]  # vllm is untyped here
    """Nothing to agree on beforehand."""


@dataclass
class FileUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]  # as above
    """A safetensors file under the names of the model's checkpoint."""

    path: str


class FileWeightTransferEngine(WeightTransferEngine[FileInitInfo, FileUpdateInfo]):  # type: ignore[misc]  # vllm is untyped here
    """Loads a whole checkpoint file into the running model, by vLLM's layerwise reload."""

    init_info_cls = FileInitInfo
    update_info_cls = FileUpdateInfo

    def init_transfer_engine(self, init_info: FileInitInfo) -> None:
        """No connection to make."""

    def start_weight_update(self) -> None:
        """Let every layer take weights in checkpoint format again."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)
        if self.device.type == "cpu":
            forget_expert_kernels(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As the base class, without its synchronisation of an accelerator that may not be there."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: FileUpdateInfo) -> None:
        """Load the file."""
        self.model.load_weights(load_file(update_info.path).items())

    def finish_weight_update(self) -> None:
        """Pack the layers for their kernels."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        repack_tied_head(self.model)

    def shutdown(self) -> None:
        """Nothing is held."""


def forget_expert_kernels(model: Any) -> None:
    """Have the reload build the kernels of experts anew, as at the start.

    vLLM 0.32 takes a kernel that is there for a sign of an update, which replaces weights in place. Those of
    the CPU kernel are packed, though, and an update leaves that out: experts would compute nonsense.
    """
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if method is not None and getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


def repack_tied_head(model: Any) -> None:
    """Give a tied output head of vLLM's CPU build the new embedding.

    vLLM 0.32 packs the head's matrix for its CPU kernel when the model is loaded. Where it is tied, a reload
    does not pack it again: the head would go on with the old weights, and nothing would say so.
    """
    head, embedding = getattr(model, "lm_head", None), _embedding(model)
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    if not tied or head is None or embedding is None or not hasattr(head, "cpu_linear"):
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    head.weight = embedding.weight
    dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def _embedding(model: Any) -> Any:
    return getattr(getattr(model, "model", None), "embed_tokens", None)
