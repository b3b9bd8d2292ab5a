"""What a rollout engine takes of a device, and how much it reads for a token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from tokensweep.registry import KIND
from tokensweep.rollout.vllm.serving import CPU_CACHE_GB
from tokensweep.rollout.wave import COMPACT_BELOW

if TYPE_CHECKING:
    from tokensweep.memory.estimate import Work

OWN_WEIGHTS = "vLLM"  # the part of an engine that has weights of its own

_FULL, _HALF = 4, 2  # bytes
# Bytes per logit while a token is drawn: float32 logits, their softmax, its exponential, and float64 sums.
_WIDE_ROW = 4 + 4 + 4 + 8
_DRAWN_ROW = 8 + 4 + 8  # bytes per token of a wave: id, log-probability, uniform number


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How the rollouts of one device are drawn."""

    rows: int = 0  # rollouts at a time; 0: without the model, or not on this device
    parts: Mapping[str, float] = field(default_factory=dict)  # bytes while it draws
    stays: Mapping[str, float] = field(default_factory=dict)  # bytes that it holds in all phases
    weight_bytes: float = 0.0  # read and written per weight and token, the bytes of rounding included
    setting: str = ""  # what to lower where drawing takes too much


def drawing(work: Work) -> Drawing:
    """How a run's engine draws. Raises ValueError for an engine that is not known here."""
    kind = work.engine[KIND].rpartition("/")[2]
    known: dict[str, Callable[[Work], Drawing]] = {
        "torch": _embedded,
        "hf": _reference,
        "fake": lambda _: Drawing(),
        "vllm": _vllm,
    }
    if kind not in known:
        raise ValueError(f"a memory plan knows the engines {', '.join(known)}, got rollout={kind}")
    return known[kind](work)


def _embedded(work: Work) -> Drawing:
    """Waves whose cache is moved when enough rows have ended; see rollout.wave."""
    rows = min(_own(work), max(1, work.engine["max_batch_tokens"] // work.sequence))
    own = _on_own_weights(work, rows)
    moved = {"cache while moved": COMPACT_BELOW * own["key-value cache"]}
    return Drawing(
        rows=rows,
        parts={**own, **moved},
        weight_bytes=_reading(work),
        setting="rollout.max_batch_tokens",
    )


def _reference(work: Work) -> Drawing:
    """Batches of a fixed number of rows, in which a prompt is read once for each; see rollout.reference."""
    rows = min(_own(work), int(work.engine["rows"]))
    return Drawing(
        rows=rows, parts=_on_own_weights(work, rows), weight_bytes=_reading(work), setting="rollout.rows"
    )


def _on_own_weights(work: Work, rows: int) -> dict[str, float]:
    """Without gradients no rounded copy of a weight stays."""
    prompts = min(rows, -(-rows // work.group_size) + 1)  # each is read once for its whole group
    return {
        "key-value cache": rows * work.sequence * work.kept.cache_per_token,
        "logits and draws": rows * (_WIDE_ROW * work.parameters.vocab + _DRAWN_ROW * work.completion),
        "work of one layer": prompts * work.prompt * work.kept.per_token_and_layer,
    }


def _reading(work: Work) -> float:
    """A weight is read; with 16-bit products it is also rounded, written and read again, for every token."""
    return _FULL if work.dtype == torch.float32 else _FULL + 2 * _HALF


def _vllm(work: Work) -> Drawing:
    """A server with weights of its own, asleep in the other phases on a GPU; see rollout.vllm."""
    if work.engine["server"]:
        return Drawing()
    rows = min(_own(work), int(work.engine["max_num_seqs"]))
    told = {"auto": _FULL if work.on_cpu else _HALF, "float32": _FULL}
    width = told.get(work.engine["dtype"], _HALF)
    weights = width * work.parameters.total / work.engine["tensor_parallel_size"]
    gigabytes = work.engine["kv_cache_gb"] or (CPU_CACHE_GB if work.on_cpu else None)
    if gigabytes is None:
        share = work.engine["gpu_memory_utilization"] * work.device_bytes
        parts = {OWN_WEIGHTS: max(share, weights)}
    else:
        parts = {OWN_WEIGHTS: weights + gigabytes * 1e9}
    return Drawing(
        rows=rows,
        parts={} if work.on_cpu else parts,
        stays=parts if work.on_cpu else {},
        weight_bytes=width / work.engine["tensor_parallel_size"],
        setting="rollout.gpu_memory_utilization" if gigabytes is None else "rollout.kv_cache_gb",
    )


def _own(work: Work) -> int:
    """Rollouts of a step that one device draws."""
    return -(-work.rollouts // work.ranks)
