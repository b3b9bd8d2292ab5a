"""The engine ``rollout=vllm``: what the trainer sees of a vLLM server."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import torch

from tokensweep.registry import component
from tokensweep.rollout.needs import FULL, HALF, Drawing, Share
from tokensweep.rollout.protocol import Progress, Request, Rollout
from tokensweep.rollout.rules import rule_of
from tokensweep.rollout.vllm.errors import EngineError, EngineLostError
from tokensweep.rollout.vllm.installed import check_installed
from tokensweep.rollout.vllm.probe import (
    LENGTH,
    Parity,
    Sequences,
    check_parity,
    compare,
    probe_of,
    trainer_logprobs,
)
from tokensweep.rollout.vllm.weights import Way
from tokensweep.train.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from tokensweep.models.policy import Policy
    from tokensweep.rollout.vllm.serving import Serving


@component("rollout", "vllm")
@dataclass(eq=False)
class VllmEngine:
    """Draws rollouts from a vLLM server: one of its own beside the trainer, or the one at ``server``.

    Every request is drawn by its own seed, so a completion does not depend on what is drawn beside it, up to
    float noise. After every ``load`` trainer and engine are compared on a few tokens (see :mod:`.probe`). A
    server that dies is started again with the same weights, and what it had not answered is asked again.

    The CPU build runs in continuous integration; sleep, the IPC and NCCL updates and tensor parallelism are
    not run on a GPU.
    """

    LABELS: ClassVar[tuple[str, ...]] = (  # where and how fast, not what is drawn
        *("server", "weights", "max_model_len", "max_num_seqs", "kv_cache_gb", "gpu_memory_utilization"),
        *("tensor_parallel_size", "eager", "restarts", "start_s"),
    )

    server: str = ""  # http://HOST:PORT of a server that was started by hand; empty: one of our own
    weights: Way = Way.auto
    dtype: str = "auto"  # float32 on a CPU, bfloat16 on a GPU, and what a policy in half precision has
    max_model_len: int | None = None  # prompt and completion; null: what the model can
    max_num_seqs: int = 256  # completions at a time
    kv_cache_gb: float | None = None  # null: 1 on a CPU, by gpu_memory_utilization on a GPU
    gpu_memory_utilization: float = 0.5
    tensor_parallel_size: int = 1
    eager: bool | None = None  # null: eager on a CPU, compiled on a GPU
    logits_processors: tuple[str, ...] = ()  # vLLM's, as MODULE:CLASS; they read Request.rules
    restarts: int = 2  # of a server that dies, within one call of generate
    start_s: float = 900.0  # patience with a server that starts

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"dtype must be auto, float32, bfloat16 or float16, got {self.dtype!r}")
        if self.max_num_seqs < 1 or self.tensor_parallel_size < 1 or self.restarts < 0:
            raise ValueError(
                "max_num_seqs and tensor_parallel_size must be at least 1 and restarts at least 0, got "
                f"{self.max_num_seqs}, {self.tensor_parallel_size} and {self.restarts}"
            )
        for name in ("kv_cache_gb", "start_s"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value:g}")
        if self.max_model_len is not None and self.max_model_len <= LENGTH:
            raise ValueError(f"max_model_len must be above {LENGTH}, got {self.max_model_len}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization:g}")
        if self.server and not self.server.startswith(("http://", "https://")):
            raise ValueError(f"server must be http://HOST:PORT, got {self.server!r}")
        if self.server and self.weights in (Way.ipc, Way.adapter):
            raise ValueError(f"weights={self.weights} needs a server of the run's own: take nccl or file")
        if self.weights is Way.nccl and not self.server:
            raise ValueError(
                "weights=nccl is for a server on other GPUs: say which (server=http://HOST:PORT)"
            )
        self._policy: Policy | None = None
        self._version = 0
        self._serving: Serving | None = None
        self._asleep = False
        self._ranks = ALONE
        self.follows_rules = False  # the server loads the logits processor of vllm.rules
        self.parity: Parity | None = None  # of the last load

    def check_machine(self, *, device: str) -> None:
        """Raise ValueError for a vLLM that is missing or of the wrong build."""
        cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
        if self.weights in (Way.ipc, Way.nccl) and not cuda:
            raise ValueError(f"rollout.weights={self.weights} needs a GPU, got a CPU: take auto or file")
        for name in self.logits_processors:
            _check_importable(name)
        if not self.server:
            check_installed(cuda=cuda)

    def join(self, ranks: Ranks) -> None:
        """Share the server at ``server`` with these ranks: the first of them sends the weights."""
        self._ranks = ranks

    def expect_rules(self) -> None:
        """Start the server with what applies sampling rules; one at ``server`` must have it already."""
        self.follows_rules = True

    def load(self, policy: Policy, *, version: int) -> None:
        """Give the engine the policy's weights and check that it has them.

        The first call starts the server. Raises ValueError for a vLLM that is missing or of the wrong build,
        EngineError for a server that does not start or does not take the weights, ParityError when its
        log-probabilities are not the trainer's.
        """
        from tokensweep.rollout.vllm.serving import find_server, start_server

        self._policy, self._version = policy, version
        if self.server:
            with self._ranks.agreed():  # nobody draws before the server has the weights
                self._serving = self._serving or find_server(self, policy)
                if self._ranks.leads:
                    self._serving.send(policy, version=version)
        elif self._serving is None:
            check_installed(cuda=policy.device.type == "cuda")
            self._serving = start_server(self, policy, version=version)
        else:
            self._serving = self._updated(self._serving, policy, version=version)
        engine = self._scored(sequences := probe_of(policy), policy, version=version)
        exact = self.dtype_for(policy) == torch.float32
        self.parity = compare(trainer_logprobs(policy, sequences), engine, exact=exact)
        check_parity(self.parity, version=version)

    def generate(self, requests: Sequence[Request], *, progress: Progress | None = None) -> list[Rollout]:
        """One rollout per request, in order.

        Raises RuntimeError before the first ``load``, ValueError for requests that are too long, EngineError
        for a server that dies again and again or gives no usable log-probabilities.
        """
        if self._policy is None or self._serving is None:
            raise RuntimeError("the engine has no weights: call load(policy, version=...) first")
        if self._asleep:
            self.load(self._policy, version=self._version)
        _check_lengths(requests, limit=self._serving.limit)
        if not self.follows_rules and any(rule_of(request.rules) for request in requests):
            raise ValueError("requests with sampling rules need expect_rules() before the first load")
        found: dict[int, Rollout] = {}

        def drawn(index: int, rollout: Rollout) -> None:
            found[index] = rollout
            if progress is not None:
                progress(1)

        losses = 0
        while waiting := {index: each for index, each in enumerate(requests) if index not in found}:
            try:
                eos_ids = [token for token in self._policy.eos_ids if token < self._policy.vocab_size]
                self._serving.draw(waiting, eos_ids=eos_ids, version=self._version, drawn=drawn)
            except EngineError as error:
                if not isinstance(error, EngineLostError) and self._serving.client.healthy():
                    raise EngineError(f"{error}{self._serving.explained()}") from error
                losses += 1
                self._recover(error, losses=losses, lost=len(requests) - len(found))
        return [found[index] for index in range(len(requests))]

    def rest(self) -> None:
        """Free the GPU's memory until the next ``load`` or ``generate``; nothing to do on a CPU."""
        on_gpu = self._policy is not None and self._policy.device.type == "cuda"
        if self._serving is not None and self._serving.process is not None and on_gpu and not self._asleep:
            level = 1 if self.weights is Way.adapter else 2  # 2 drops the weights: the next load brings all
            self._serving.client.call("/sleep", params={"level": level})
            self._asleep = True

    def close(self) -> None:
        """End the server and remove its files; the next ``load`` starts another."""
        if self._serving is not None:
            self._serving.close()
        self._serving, self._asleep = None, False

    def memory(self, share: Share) -> Drawing:
        """A server with weights of its own, asleep in the other phases on a GPU."""
        from tokensweep.rollout.vllm.serving import CPU_CACHE_GB

        if self.server:
            return Drawing()
        told = {"auto": FULL if share.on_cpu else HALF, "float32": FULL}
        width = told.get(self.dtype, HALF) / self.tensor_parallel_size
        gigabytes = self.kv_cache_gb or (CPU_CACHE_GB if share.on_cpu else None)
        if gigabytes is None:
            size = max(self.gpu_memory_utilization * share.device_bytes, width * share.weights)
        else:
            size = width * share.weights + gigabytes * 1e9
        own = {"vLLM": size}
        return Drawing(
            rows=min(share.rollouts, self.max_num_seqs),
            parts={} if share.on_cpu else own,
            stays=own if share.on_cpu else {},
            takes={} if share.on_cpu else own,
            weight_bytes=width,
            setting="gpu_memory_utilization" if gigabytes is None else "kv_cache_gb",
            is_share=gigabytes is None,
        )

    @property
    def pid(self) -> int | None:
        """Process id of the engine's own server."""
        return self._serving.process.pid if self._serving and self._serving.process else None

    def dtype_for(self, policy: Policy) -> torch.dtype:
        """The number format that the engine computes in."""
        if self.dtype != "auto":
            return cast(torch.dtype, getattr(torch, self.dtype))
        own = policy.head_weight.dtype
        return torch.bfloat16 if own == torch.float32 and policy.device.type == "cuda" else own

    def way(self, *, gpu: bool) -> Way:
        """How weights are moved."""
        if self.weights is not Way.auto:
            return self.weights
        return Way.ipc if gpu and not self.server else Way.file

    def _updated(self, serving: Serving, policy: Policy, *, version: int) -> Serving:
        """The server with new weights, or another where it died before it had them."""
        from tokensweep.rollout.vllm.serving import start_server

        try:
            self._wake(serving)
            serving.send(policy, version=version)
        except EngineError as error:
            if serving.client.healthy():
                raise EngineError(f"{error}{serving.explained()}") from error
            print(f"vLLM died before it had new weights ({error}); it is started again.{serving.explained()}")
            self.close()
            return start_server(self, policy, version=version)
        return serving

    def _scored(self, sequences: Sequences, policy: Policy, *, version: int) -> list[float]:
        """What the engine gives the probe; a server of our own that dies over it is started again, once."""
        from tokensweep.rollout.vllm.serving import start_server

        assert self._serving is not None
        try:
            return self._serving.score(sequences)
        except EngineError as error:
            told = self._serving.explained()
            if self._serving.process is None or self._serving.client.healthy():
                raise EngineError(f"{error}{told}") from error
            print(f"vLLM died over the comparison with the trainer ({error}); it is started again.{told}")
        self.close()
        self._serving = start_server(self, policy, version=version)
        try:
            return self._serving.score(sequences)
        except EngineError as error:
            told = self._serving.explained()
            raise EngineError(
                f"vLLM started, but failed twice to score the tokens that it is compared with the trainer by "
                f"({error}): it may lack a kernel for sizes of this model, so try rollout=torch.{told}"
            ) from error

    def _wake(self, serving: Serving) -> None:
        if self._asleep:
            serving.client.call("/wake_up")
            self._asleep = False

    def _recover(self, error: EngineError, *, losses: int, lost: int) -> None:
        """Start a server that died again, with the same weights; raise EngineError after too many times."""
        assert self._policy is not None
        process = self._serving.process if self._serving else None
        if process is None:
            raise EngineError(f"{error}; the server was started by hand, so look at its own log") from error
        told = process.explained()
        self.close()
        if losses > self.restarts:
            raise EngineError(
                f"vLLM died {losses} times while {lost} completions were drawn ({error}): rollout.restarts="
                f"{self.restarts} are used up.{told}"
            ) from error
        print(f"vLLM died ({error}); it is started again, and {lost} completions are drawn again.{told}")
        self.load(self._policy, version=self._version)


def _check_importable(processor: str) -> None:
    module, colon, name = processor.partition(":")
    try:
        found = colon and name and importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if not found:
        raise ValueError(
            f"rollout.logits_processors must be MODULE:CLASS that Python finds, got {processor!r}: put the "
            "module's folder into PYTHONPATH"
        )


def _check_lengths(requests: Sequence[Request], *, limit: int) -> None:
    longest = max((len(r.prompt_ids) + r.sampling.max_tokens for r in requests), default=0)
    if longest > limit:
        raise ValueError(
            f"a prompt and its completion may take {limit} tokens in vLLM, got {longest}: lower "
            "sampling.max_tokens (eval.max_tokens) or prompt.max_tokens, or raise rollout.max_model_len"
        )
