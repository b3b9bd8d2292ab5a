"""A server that runs: how it is started or found, given weights, and asked."""

from __future__ import annotations

import json
import os
import shutil
import socket as sockets
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tokensweep.rollout.protocol import Request, Rollout
from tokensweep.rollout.vllm.client import ServerClient
from tokensweep.rollout.vllm.errors import EngineError, EngineLostError
from tokensweep.rollout.vllm.plugin import FILE_BACKEND
from tokensweep.rollout.vllm.probe import Sequences
from tokensweep.rollout.vllm.process import ServerProcess
from tokensweep.rollout.vllm.weights import (
    Adapted,
    AdapterTransfer,
    FileTransfer,
    Transfer,
    Way,
    write_weights,
)
from tokensweep.rollout.vllm.wire import completion_body, rollout_of, scores_of, scoring_body

if TYPE_CHECKING:
    from tokensweep.models.policy import Policy
    from tokensweep.rollout.vllm.engine import VllmEngine

_GB = 10**9
CPU_CACHE_GB = 1.0
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM reserves room for
_ADAPTERS = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
RULES = "tokensweep.rollout.vllm.rules:SamplingRules"
_NO_RULE = {"rule/unknown/x": 0.0}  # refused by a server that reads rules, ignored by any other
_LONGEST_SOCKET = 100  # bytes of a Unix socket's path; the kernel takes 107


class Serving:
    """A running server. ``process`` is None for one that was started by hand."""

    def __init__(
        self,
        client: ServerClient,
        transfer: Transfer,
        *,
        process: ServerProcess | None,
        end: Callable[[], Any],
    ) -> None:
        self.client, self.process, self._transfer = client, process, transfer
        self._model: str | None = None  # the name of an adapter
        self._end = weakref.finalize(self, end)  # also when this process leaves without a word
        (model, *_) = client.get("/v1/models")["data"]
        self.limit = int(model["max_model_len"])  # tokens of prompt and completion

    def send(self, policy: Policy, *, version: int) -> None:
        """Give it the policy's weights; what it remembers of old ones is forgotten."""
        self._model = self._transfer.send(policy, version=version)
        self.client.call("/reset_prefix_cache")

    def score(self, sequences: Sequences) -> list[float]:
        """Log-probabilities of every token but the first of each sequence, one after the other."""
        told: dict[int, list[float]] = {}

        def answered(index: int, answer: Mapping[str, Any]) -> None:
            told[index] = scores_of(sequences[index], answer)

        self.client.complete([scoring_body(ids, model=self._model) for ids in sequences], answered=answered)
        return [value for index in range(len(sequences)) for value in told[index]]

    def draw(
        self,
        requests: Mapping[int, Request],
        *,
        eos_ids: Sequence[int],
        version: int,
        drawn: Callable[[int, Rollout], None],
    ) -> None:
        """Ask for rollouts; ``drawn`` hears each under its key as it comes, also when this raises later."""
        keys = list(requests)

        def answered(place: int, answer: Mapping[str, Any]) -> None:
            key = keys[place]
            drawn(key, rollout_of(requests[key], answer, version=version))

        model = self._model
        bodies = [completion_body(each, eos_ids=eos_ids, model=model) for each in requests.values()]
        self.client.complete(bodies, answered=answered)

    def check_rules(self) -> None:
        """Raise EngineError unless the server reads the sampling rules of requests."""
        body = scoring_body([0], model=self._model)
        body["sampling_params"] = {**body["sampling_params"], "extra_args": _NO_RULE}
        try:
            self.client.complete([body], answered=lambda *_: None)
        except EngineError as error:
            if not isinstance(error, EngineLostError) and "one of the rules" in str(error):
                return
            raise
        raise EngineError(
            f"the server at {self.client.address} ignores sampling rules: start it with --logits-processors "
            f"{RULES}"
        )

    def explained(self) -> str:
        """What the log of an own server says; nothing of one that was started by hand."""
        return self.process.explained() if self.process else ""

    def close(self) -> None:
        """End what was started and remove its files."""
        self._end()


def start_server(settings: VllmEngine, policy: Policy, *, version: int) -> Serving:
    """A server of our own on the policy's weights as they are. Raises EngineError when it does not start."""
    home = new_home()
    socket = _socket_path(home)
    dtype, gpu = settings.dtype_for(policy), policy.device.type == "cuda"
    policy.model.config.save_pretrained(home)
    policy.tokenizer.save_pretrained(home)
    adapted = _adapted(settings, policy)
    weights = adapted.base_weights() if adapted else policy.merged_weights()
    write_weights(weights, home, dtype=dtype)
    client = ServerClient(uds=socket, connections=2 * settings.max_num_seqs)
    process = ServerProcess(
        [*_arguments(settings, home, socket, dtype=dtype, gpu=gpu), *_lora_arguments(adapted)],
        environment=_environment(policy),
        log=home / "server.log",
    )

    def end() -> None:
        process.stop()
        for folder in {home, socket.parent}:
            shutil.rmtree(folder, ignore_errors=True)

    try:
        process.await_healthy(client, patience_s=settings.start_s)
        client.call("/update_weight_version", json={"new_version": str(version)})
        transfer = _transfer(settings, client, home, policy=policy)
        serving = Serving(client, transfer, process=process, end=end)
        if settings.follows_rules:
            serving.check_rules()
        if adapted is not None:
            serving.send(policy, version=version)
        return serving
    except BaseException:
        end()
        raise


def find_server(settings: VllmEngine, policy: Policy) -> Serving:
    """The server at ``settings.server``.

    Raises EngineError when it does not answer, or ignores the sampling rules that requests will have.
    """
    client = ServerClient(url=settings.server, connections=2 * settings.max_num_seqs)
    if not client.healthy():
        raise EngineError(
            f"no vLLM server answers at {settings.server}: start one there (docs/gpu.md has the command), or "
            "leave rollout.server empty for one of the run's own"
        )
    home = new_home()
    transfer = _transfer(settings, client, home, policy=policy)
    serving = Serving(client, transfer, process=None, end=lambda: shutil.rmtree(home, ignore_errors=True))
    if settings.follows_rules:
        serving.check_rules()
    return serving


def _adapted(settings: VllmEngine, policy: Policy) -> Adapted | None:
    """The policy, if its adapters are to be sent alone."""
    return policy if settings.weights is Way.adapter and isinstance(policy, Adapted) else None


def _transfer(settings: VllmEngine, client: ServerClient, home: Path, *, policy: Policy) -> Transfer:
    way, dtype = settings.way(gpu=policy.device.type == "cuda"), settings.dtype_for(policy)
    if _adapted(settings, policy):
        return AdapterTransfer(client, home)
    if way in (Way.file, Way.adapter):
        return FileTransfer(client, home, dtype=dtype)
    from tokensweep.rollout.vllm.device_transfer import DeviceTransfer  # imports vLLM

    return DeviceTransfer(client, dtype=dtype, nccl=way is Way.nccl)


def new_home() -> Path:
    """A private folder for a model's files, a socket and a log; what killed processes left is removed."""
    mine = f"tokensweep-vllm-{sockets.gethostname()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{mine}*-*"):
        owner = left.name.removeprefix(mine).partition("-")[0]
        if owner.isdecimal() and left.stat().st_uid == os.getuid() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{mine}{os.getpid()}-"))


def _socket_path(home: Path) -> Path:
    """Where the server listens: in its folder, or in a shorter one where the path would be too long."""
    path = home / "socket"
    if len(str(path).encode()) <= _LONGEST_SOCKET:
        return path
    return Path(tempfile.mkdtemp(prefix="tokensweep-", dir="/tmp")) / "socket"


def _arguments(settings: VllmEngine, home: Path, socket: Path, *, dtype: torch.dtype, gpu: bool) -> list[str]:
    """The server's command line."""
    cache_gb = settings.kv_cache_gb or (None if gpu else CPU_CACHE_GB)
    way = settings.way(gpu=gpu)
    backend = way.value if way in (Way.ipc, Way.nccl) else FILE_BACKEND
    flags = {
        "--model": home,
        "--served-model-name": "policy",
        "--uds": socket,
        "--dtype": str(dtype).removeprefix("torch."),
        "--max-num-seqs": settings.max_num_seqs,
        "--max-model-len": settings.max_model_len,
        "--kv-cache-memory-bytes": int(cache_gb * _GB) if cache_gb else None,
        "--gpu-memory-utilization": settings.gpu_memory_utilization,
        "--tensor-parallel-size": settings.tensor_parallel_size,
        "--logprobs-mode": "processed_logprobs",  # of the distribution that was drawn from
        "--generation-config": "vllm",  # nothing of the model's own sampling defaults
        "--weight-transfer-config": json.dumps({"backend": backend}),
    }
    given = [str(part) for flag, value in flags.items() if value is not None for part in (flag, value)]
    switches = {
        "--enforce-eager": not gpu if settings.eager is None else settings.eager,
        "--enable-scale-out": True,  # the call with token ids in and out
        "--enable-sleep-mode": gpu,
        "--disable-log-stats": True,
        "--disable-uvicorn-access-log": True,  # a line for every completion
    }
    processors = [*settings.logits_processors, *([RULES] if settings.follows_rules else [])]
    listed = ["--logits-processors", *processors] if processors else []
    return [*given, *(flag for flag, on in switches.items() if on), *listed]


def _lora_arguments(adapted: Adapted | None) -> list[str]:
    if adapted is None:
        return []
    rank = next((rank for rank in _LORA_RANKS if rank >= adapted.rank), None)
    if rank is None:
        raise ValueError(
            f"rollout.weights=adapter takes ranks up to {_LORA_RANKS[-1]}, got {adapted.rank}: "
            "take rollout.weights=file, which sends merged weights"
        )
    sizes = ["--max-loras", "1", "--max-lora-rank", str(rank)]
    # Named, as vLLM's CPU build fails to score prompts where the output head could have an adapter.
    return ["--enable-lora", *sizes, "--lora-target-modules", *adapted.targets]


def _environment(policy: Policy) -> dict[str, str]:
    """What the server must know besides this process's environment."""
    if policy.device.type != "cuda":
        threads = str(torch.get_num_threads())
        return {**_ADAPTERS, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": threads}
    index = torch.cuda.current_device() if policy.device.index is None else policy.device.index
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    own = devices.split(",")[index] if devices else str(index)
    # CUDA handles of the trainer's own weights come pickled; the socket is in a folder of this user alone.
    return {**_ADAPTERS, "CUDA_VISIBLE_DEVICES": own, "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
