"""Memory of a run on one device, phase by phase, as the trainer spends it.

Every rank holds the whole model, its gradients and its optimiser state: more devices divide rollouts and
forwards, never these. Weights, gradients and AdamW's two moments are in float32; ``compute.dtype`` is the
format of the matrix products alone, which keep copies of the weights in it. A GB is 10^9 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokensweep.loss.head import CPU_TILE, GPU_TILE
from tokensweep.loss.method import Guarantee, Method, build_method
from tokensweep.memory.device import GB, Device
from tokensweep.memory.engines import OWN_WEIGHTS, drawing
from tokensweep.memory.shapes import Kept, Parameters, kept, parameters
from tokensweep.registry import build, defaults_of
from tokensweep.train.ranks import BUCKET

_PROMPT = 512  # tokens, where prompt.max_tokens says nothing
_FULL = 4  # bytes of a float32
_MOMENTS = 2  # of AdamW
_TABLE_ROW = 3 * 8  # bytes per token of the batch: id, sequence and position, see loss.tables.Batch
_TRAINED_ROW = 3 * 8 + 6 * 4 + 1  # per trained token: its indices, columns with advantage and weight, active
_TILES = 4  # pieces of logits that the fused head holds at a time: a tile and what it is turned into
_CHECK = 4 * 8  # bytes per number while weights are compared between ranks, see train.ranks.fingerprint


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What lies on a device in one phase of a step, under the names that a reader sees."""

    name: str  # rollout, old_pass, update: as the trainer times them; sync
    parts: Mapping[str, float]  # bytes

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class Work:
    """The sizes of a run that decide about memory, from its frozen config."""

    architecture: Mapping[str, Any]
    dtype: torch.dtype  # of the matrix products
    method: Method
    prompt: int  # tokens, at most
    completion: int  # tokens, at most
    prompts: int  # trained in a step
    group_size: int
    micro_tokens: int  # as the config says
    engine: Mapping[str, Any]
    ranks: int
    on_cpu: bool
    device_bytes: float  # of one device, for an engine that takes a share of it

    @property
    def rollouts(self) -> int:
        """Trained in a step."""
        return self.prompts * self.group_size

    @property
    def sequence(self) -> int:
        """Tokens of the longest rollout."""
        return self.prompt + self.completion

    @property
    def forward(self) -> int:
        """Tokens of the largest forward: a micro-batch holds a whole rollout, however long."""
        mini_batch = max(1, self.rollouts // self.method.updates_per_batch) * self.sequence
        return max(self.sequence, min(self.micro_tokens, mini_batch))

    @property
    def share(self) -> float:
        """Part of a forward's tokens that the loss scores."""
        return self.completion / self.sequence

    @property
    def parameters(self) -> Parameters:
        """What the model is made of."""
        return parameters(self.architecture)

    @property
    def kept(self) -> Kept:
        """What its forward keeps."""
        return kept(self.architecture, self.dtype)


def work_of(frozen: Mapping[str, Any], device: Device) -> Work:
    """The sizes of a run on such devices. Raises ValueError for a model whose sizes are not known."""
    model = build(frozen["model"])
    architecture = model.architecture(cache=Path(frozen["store"]) / "models")
    if architecture is None:
        raise ValueError(
            "a memory plan needs the sizes of the model, and its config.json is not here: give them, as in "
            "'model.shape={model_type: qwen3, hidden_size: 1024, ...}' (conf/model/qwen3_0_6b.yaml shows the "
            "keys), or a folder with the model"
        )
    completion = frozen["sampling"]["max_tokens"]
    room = max(1, parameters(architecture).positions - completion)
    return Work(
        architecture=architecture,
        dtype=getattr(torch, frozen["compute"]["dtype"]),
        method=build_method(frozen["method"]),
        prompt=(frozen.get("prompt") or {}).get("max_tokens") or min(_PROMPT, room),
        completion=completion,
        prompts=frozen["batch"]["prompts"],
        group_size=frozen["batch"]["group_size"],
        micro_tokens=frozen["batch"]["micro_tokens"],
        engine={**defaults_of(frozen["rollout"]), **frozen["rollout"]},
        ranks=device.ranks,
        on_cpu=device.on_cpu,
        device_bytes=device.memory_gb * GB,
    )


def recomputed(work: Work) -> float:
    """Bytes of activations if layers kept their input alone and were computed again in the backward."""
    inputs = _FULL * work.parameters.layers * work.parameters.hidden
    return work.forward * inputs


def phases(work: Work) -> tuple[Phase, ...]:
    """Rollout, old_pass, update and sync, in the order of a step."""
    resident = {**_resident(work), **drawing(work).stays}
    table = {"batch table": work.rollouts * (_TABLE_ROW * work.sequence + _TRAINED_ROW * work.completion)}
    return (
        Phase(name="rollout", parts={**resident, **drawing(work).parts}),
        Phase(name="old_pass", parts={**resident, **table, **_old_pass(work)}),
        Phase(name="update", parts={**resident, **table, **_update(work)}),
        Phase(name="sync", parts={**resident, **_sync(work)}),
    )


def _resident(work: Work) -> dict[str, float]:
    """What never leaves the device."""
    numbers = work.parameters
    parts: dict[str, float] = {
        "weights": _FULL * numbers.total,
        "optimiser state": _FULL * (_MOMENTS * numbers.total + numbers.tensors),  # and a step count each
    }
    if "ref_logprobs" in work.method.needs():
        parts["reference weights"] = _FULL * numbers.total
    return parts


def peak(work: Work) -> Phase:
    """The phase that takes most."""
    return max(phases(work), key=lambda phase: phase.total)


def _old_pass(work: Work) -> dict[str, float]:
    """The first forward waits with its graph for the update while the others run without one."""
    return {
        **_graph(work),
        **{f"{name}, next": size for name, size in _casts(work).items()},
        "work of one layer": work.forward * work.kept.per_token_and_layer,
        "head buffers": _head(work, backward=False),
    }


def _update(work: Work) -> dict[str, float]:
    """The larger of two moments: a backward that begins with all that its forward kept, and the exchange."""
    looks_at_all = not work.method.guarantees() >= {Guarantee.signal_only, Guarantee.rollout_local}
    packs = {f"{n}, 2nd pack": b for n, b in _casts(work).items()} if looks_at_all else {}
    backward = {
        **_graph(work),
        **packs,
        "work of one layer": work.forward * work.kept.per_token_and_layer,
        "head buffers": _head(work, backward=True),
    }
    exchange = {"exchange": _FULL * max(BUCKET, work.parameters.largest) if work.ranks > 1 else 0.0}
    larger = max(backward, exchange, key=lambda parts: sum(parts.values()))
    return {"gradients": _FULL * work.parameters.total, **larger}


def _sync(work: Work) -> dict[str, float]:
    """The engine takes the weights, after that the ranks compare theirs piece by piece."""
    compared = _CHECK * min(BUCKET, work.parameters.largest) if work.ranks > 1 else 0.0
    taking = {name: size for name, size in drawing(work).parts.items() if name == OWN_WEIGHTS}
    return max(taking, {"comparison": compared}, key=lambda parts: sum(parts.values()))


def _graph(work: Work) -> dict[str, float]:
    """What the largest forward keeps for its backward."""
    activations = work.forward * work.kept.per_token
    scored = work.forward * work.share * work.parameters.hidden * work.dtype.itemsize
    return {"activations": activations + scored, **_casts(work)}


def _casts(work: Work) -> dict[str, float]:
    """Weights and head in the format of the products, where that is not their own."""
    if work.dtype == torch.float32:
        return {}
    return {"weights in 16 bits": work.kept.casts + work.dtype.itemsize * work.parameters.head}


def _head(work: Work, *, backward: bool) -> float:
    """Buffers of the fused head: tiles of logits, and in the backward gradients of states and matrix."""
    numbers = work.parameters
    rows, vocab = CPU_TILE if work.on_cpu else GPU_TILE
    scored = work.forward * work.share
    tiles = _FULL * _TILES * min(rows, scored) * min(vocab, numbers.vocab)
    if not backward:
        return tiles
    states = scored * numbers.hidden * _FULL
    matrix = numbers.head * (_FULL if work.dtype == torch.float32 else _FULL + work.dtype.itemsize)
    return tiles + states + matrix
