"""The trainer's side of a weight update: a file everywhere, CUDA IPC or NCCL on GPUs."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Tensor

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
    adapter = "adapter"  # the adapters of trainable=lora alone, beside the frozen weights; else as file


class Transfer(Protocol):
    """Moves the weights of a policy into a running engine."""

    def send(self, policy: Policy, *, version: int) -> str | None:
        """Replace the engine's weights; returns when it has them, with the adapter's name if it is one."""
        ...


class FileTransfer:
    """Through ``model.safetensors`` in ``folder``, which always holds the newest weights, as ``dtype``."""

    def __init__(self, client: ServerClient, folder: Path, *, dtype: torch.dtype) -> None:
        self._client, self._folder, self._dtype = client, folder, dtype

    def send(self, policy: Policy, *, version: int) -> None:
        """Write the file, then have the engine load it."""
        path = write_weights(policy.merged_weights(), self._folder, dtype=self._dtype)
        self._client.call("/start_weight_update")
        self._client.call("/update_weights", json={"update_info": {"path": str(path)}})
        self._client.call("/finish_weight_update", json={"weight_version": str(version)})


class AdapterTransfer:
    """Through adapter folders in ``folder``; requests name the newest, the one before is forgotten."""

    def __init__(self, client: ServerClient, folder: Path) -> None:
        self._client, self._folder = client, folder
        self._name: str | None = None

    def send(self, policy: Policy, *, version: int) -> str:
        """Write the adapters and have the engine load them beside the frozen weights."""
        assert isinstance(policy, Adapted)
        before, name = self._name, f"step-{version}-{uuid.uuid4().hex[:8]}"
        policy.adapter(self._folder / name)
        if before is not None:
            self._client.call("/v1/unload_lora_adapter", json={"lora_name": before})
            shutil.rmtree(self._folder / before)
        loaded = {"lora_name": name, "lora_path": str(self._folder / name)}
        self._client.call("/v1/load_lora_adapter", json=loaded)
        self._client.call("/update_weight_version", json={"new_version": str(version)})
        self._name = name
        return name


@runtime_checkable
class Adapted(Protocol):
    """What a policy with adapters has more than others."""

    @property
    def rank(self) -> int:
        """The largest rank of an adapter."""
        ...

    @property
    def targets(self) -> list[str]:
        """The last names of the layers that have adapters."""
        ...

    def base_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The frozen weights under the names of a plain model's checkpoint."""
        ...

    def adapter(self, folder: Path) -> None:
        """Write the adapters in peft's format."""
        ...


def write_weights(weights: Iterable[tuple[str, Tensor]], folder: Path, *, dtype: torch.dtype) -> Path:
    """Weights as the file of a checkpoint, complete or not at all."""
    path = folder / WEIGHTS
    partial = path.with_suffix(".partial")
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights}
    save_file(tensors, partial, metadata={"format": "pt"})
    return partial.replace(path)
