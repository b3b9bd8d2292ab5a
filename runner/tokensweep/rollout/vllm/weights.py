"""The trainer's side of a weight update: a file everywhere, CUDA IPC or NCCL on GPUs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors.torch import save_file

from tokensweep.rollout.vllm.client import ServerClient

if TYPE_CHECKING:
    from tokensweep.models.policy import Policy

WEIGHTS = "model.safetensors"


class Way(StrEnum):
    """How weights get into the engine."""

    auto = "auto"  # ipc to a server that this process started on its GPU, else file
    file = "file"  # needs a file system that trainer and server share
    ipc = "ipc"  # one GPU for both; not run on a GPU
    nccl = "nccl"  # a server on other GPUs; not run on a GPU


class Transfer(Protocol):
    """Moves the weights of a policy into a running engine."""

    def send(self, policy: Policy, *, version: int) -> None:
        """Replace the engine's weights; returns when it has them."""
        ...


class FileTransfer:
    """Through ``model.safetensors`` in ``folder``, which always holds the newest weights, as ``dtype``."""

    def __init__(self, client: ServerClient, folder: Path, *, dtype: torch.dtype) -> None:
        self._client, self._folder, self._dtype = client, folder, dtype

    def send(self, policy: Policy, *, version: int) -> None:
        """Write the file, then have the engine load it."""
        path = write_weights(policy, self._folder, dtype=self._dtype)
        self._client.call("/start_weight_update")
        self._client.call("/update_weights", json={"update_info": {"path": str(path)}})
        self._client.call("/finish_weight_update", json={"weight_version": str(version)})


def write_weights(policy: Policy, folder: Path, *, dtype: torch.dtype) -> Path:
    """The policy's weights under the names of its checkpoint, complete or not at all."""
    path = folder / WEIGHTS
    partial = path.with_suffix(".partial")
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in policy.merged_weights()
    }
    save_file(tensors, partial, metadata={"format": "pt"})
    return partial.replace(path)
