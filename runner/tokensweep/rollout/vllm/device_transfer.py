"""Weight updates between GPUs by vLLM's own trainer engines. Imports vLLM; not run on a GPU."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.clients import _json_safe_update_payload
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from tokensweep.rollout.vllm.client import ServerClient

if TYPE_CHECKING:
    from tokensweep.models.policy import Policy


class PolicySource(WeightSource):  # type: ignore[misc]  # vllm is untyped here
    """The weights of a policy under the names of its checkpoint, as ``dtype``."""

    def __init__(self, policy: Policy, *, dtype: torch.dtype) -> None:
        self._policy, self._dtype = policy, dtype

    def metadata(self) -> list[Any]:
        """Name, dtype and shape of every weight."""
        return [
            ParamMeta(name, self._dtype, tuple(tensor.shape))
            for name, tensor in self._policy.merged_weights()
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._policy.merged_weights():
            yield name, tensor.detach().to(self._dtype)


class SyncClient:
    """vLLM's four calls of a weight update, over our connection; the versions are labelled ``version``."""

    def __init__(self, client: ServerClient) -> None:
        self._client = client
        self.version = ""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Agree on how weights are sent."""
        self._client.call("/init_weight_transfer_engine", json={"init_info": init_info})

    def start_weight_update(self) -> None:
        """Begin."""
        self._client.call("/start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        """Send what the other side needs to receive weights; CUDA handles travel as base64."""
        self._client.call("/update_weights", json={"update_info": _json_safe_update_payload(update_info)})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End."""
        self._client.call("/finish_weight_update", json={"weight_version": weight_version or self.version})


class DeviceTransfer:
    """CUDA IPC to a server on the same GPU, or NCCL to one on other GPUs (``nccl``)."""

    def __init__(self, client: ServerClient, *, dtype: torch.dtype, nccl: bool) -> None:
        self._http, self._dtype, self._nccl = client, dtype, nccl
        self._sync = SyncClient(client)
        self._engine: Any = None

    def send(self, policy: Policy, *, version: int) -> None:
        """Replace the engine's weights; the first call connects."""
        if self._engine is None:
            source = PolicySource(policy, dtype=self._dtype)
            self._engine = WeightTransferTrainerFactory.trainer_init(
                self._init_info(), client=self._sync, source=source
            )
        self._sync.version = str(version)
        self._engine.send_weights()

    def _init_info(self) -> Any:
        # Every rank that sends has an engine of its own, so each is the sender of its group.
        if not self._nccl:
            return IPCTrainerInitInfo(rank=0, packed=True)
        workers = int(self._http.get("/get_world_size")["world_size"])
        host = socket.gethostbyname(socket.gethostname())
        return NCCLTrainerInitInfo(
            rank=0, master_address=host, master_port=_free_port(), world_size=workers + 1
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
