"""What to change so that a run fits: the largest value of a setting that does, and the smallest change."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import Any

import yaml

from tokensweep.compose import Frozen
from tokensweep.loss.method import build_method
from tokensweep.loss.slots import REFERENCE
from tokensweep.memory.device import GB, Device
from tokensweep.memory.estimate import peak, phases, work_of
from tokensweep.memory.shapes import parameters
from tokensweep.models.trainable import Full, trainable_of
from tokensweep.paths import conf_dir
from tokensweep.registry import KIND

_STEP = 256  # tokens: limits are rounded down to a multiple of it
_SHARES = 20  # steps of an engine's share of a device
_LEAST_COMPLETION = 512  # tokens: below, no reasoning model says anything


@dataclass(frozen=True)
class Change:
    """A change to a run: the overrides to type, and the config that they give."""

    overrides: tuple[str, ...]
    frozen: Frozen


Kind = Callable[[Frozen, Device], Iterator[Change]]  # the smallest first; each is tried


def fits(frozen: Mapping[str, Any], device: Device) -> bool:
    """Whether the largest phase of the run fits on the device."""
    return taken_gb(frozen, device) <= device.memory_gb


def taken_gb(frozen: Mapping[str, Any], device: Device) -> float:
    """What the largest phase of the run takes of one device."""
    return peak(work_of(frozen, device)).total / GB


def largest_micro_tokens(frozen: Frozen, device: Device) -> int | None:
    """The largest ``batch.micro_tokens`` that fits; None where one rollout at its limit is too long already.

    It is no more than makes a difference: the tokens of a mini-batch.
    """
    work = work_of(frozen, device)
    mini_batch = max(1, work.rollouts // work.method.updates_per_batch) * work.sequence
    return _largest(frozen, device, "batch.micro_tokens", low=work.sequence, high=mini_batch)


def smallest_changes(frozen: Frozen, device: Device) -> list[Change]:
    """The changes that fit, at most two: one by itself; where that is another model, also some with this one.

    The less a change does to results the earlier it comes: how many rollouts are drawn at a time, tokens of a
    forward, layers run again, number format, weights that are trained, the reference model, length of
    completions, the model. At most three are joined.
    """
    kinds: tuple[Kind, ...] = (_fewer_rows, _smaller_micro, _recomputed, _halves)
    kinds += (_adapters, _no_reference, _shorter)
    if (alone := _first(kinds, frozen, device)) is not None:
        return [alone]
    sets = [combinations(range(len(kinds)), count) for count in (2, 3)]
    ordered = (chosen for each in sets for chosen in sorted(each, key=lambda places: places[::-1]))
    together = (reduce(_both, (kinds[place] for place in chosen)) for chosen in ordered)
    found = (_first((_model,), frozen, device), _first(together, frozen, device))
    return [change for change in found if change is not None]


def _first(kinds: Iterable[Kind], frozen: Frozen, device: Device) -> Change | None:
    """The first change of these kinds that fits."""
    changes = (change for kind in kinds for change in kind(frozen, device))
    return next((change for change in changes if fits(change.frozen, device)), None)


def _both(one: Kind, other: Kind) -> Kind:
    """Changes of one kind, each with the changes of another that follow it."""

    def changes(frozen: Frozen, device: Device) -> Iterator[Change]:
        for first in one(frozen, device):
            for second in other(first.frozen, device):
                yield Change((*first.overrides, *second.overrides), second.frozen)

    return changes


def with_value(frozen: Frozen, key: str, value: Any) -> Frozen:
    """A copy of a frozen config with one key replaced."""
    changed = copy.deepcopy(frozen)
    *parents, last = key.split(".")
    node = changed
    for parent in parents:
        node = node[parent]
    node[last] = value
    return changed


def _largest(frozen: Frozen, device: Device, key: str, *, low: int, high: int) -> int | None:
    """The largest value of a key in [low, high] that fits; None: not even ``low`` does."""
    if not fits(_set(frozen, device, key, low), device):
        return None
    if fits(_set(frozen, device, key, high), device):
        return high
    good, bad = low, high
    while bad - good > _STEP:
        middle = (good + bad) // 2
        if fits(_set(frozen, device, key, middle), device):
            good = middle
        else:
            bad = middle
    return max(low, good // _STEP * _STEP)


def _set(frozen: Frozen, device: Device, key: str, value: Any) -> Frozen:
    """As :func:`with_value`; sampling follows the data's limit, and a micro-batch needs no more than that."""
    changed = with_value(frozen, key, value)
    if key != "data.max_tokens":
        return changed
    changed = with_value(changed, "sampling.max_tokens", value)
    micro = min(frozen["batch"]["micro_tokens"], _sequence(changed, device))
    return with_value(changed, "batch.micro_tokens", micro)


def _sequence(frozen: Frozen, device: Device) -> int:
    """Tokens of the longest rollout."""
    return work_of(frozen, device).sequence


def _limit(frozen: Frozen, device: Device, key: str, *, low: int, high: int) -> Iterator[Change]:
    """The largest value below the one that is set; where none fits the lowest, for another to join."""
    value = _largest(frozen, device, key, low=low, high=high) or low
    if value < high:
        changed = _set(frozen, device, key, value)
        micro = changed["batch"]["micro_tokens"]
        follows = key != "batch.micro_tokens" and micro != frozen["batch"]["micro_tokens"]
        yield Change((f"{key}={value}", *([f"batch.micro_tokens={micro}"] if follows else [])), changed)


def _fewer_rows(frozen: Frozen, device: Device) -> Iterator[Change]:
    """Rollouts that are drawn at a time, or the share of the device that the engine takes for them."""
    work = work_of(frozen, device)
    how = work.drawing
    if how is None or not how.setting:
        return
    key, value = f"rollout.{how.setting}", getattr(work.engine, how.setting)
    if how.least:
        yield from _limit(frozen, device, key, low=how.least, high=value)
    if how.is_share:
        rest = phases(work)[0].total - sum(how.parts.values())
        share = math.floor(_SHARES * (1 - rest / work.device_bytes)) / _SHARES
        if 0 < share < value:
            yield Change((f"{key}={share:g}",), with_value(frozen, key, share))


def _smaller_micro(frozen: Frozen, device: Device) -> Iterator[Change]:
    work = work_of(frozen, device)
    yield from _limit(frozen, device, "batch.micro_tokens", low=work.sequence, high=work.forward)


def _recomputed(frozen: Frozen, device: Device) -> Iterator[Change]:
    key = "compute.activation_checkpointing"
    if not frozen["compute"].get("activation_checkpointing", False):
        yield Change((f"{key}=true",), with_value(frozen, key, True))


def _halves(frozen: Frozen, device: Device) -> Iterator[Change]:
    if frozen["compute"]["dtype"] == "float32":
        yield Change(("compute.dtype=bfloat16",), with_value(frozen, "compute.dtype", "bfloat16"))


def _adapters(frozen: Frozen, device: Device) -> Iterator[Change]:
    if trainable_of(frozen) == Full():
        yield Change(("trainable=lora",), with_value(frozen, "trainable", {KIND: "trainable/lora"}))


def _no_reference(frozen: Frozen, device: Device) -> Iterator[Change]:
    """Without the components that need the reference model."""
    method = build_method(frozen["method"])
    needing = [where for where, part in method.parts() if part.needs & REFERENCE]
    if needing and all("." in where for where in needing):
        changed = copy.deepcopy(frozen)
        for where in needing:
            slot, _, name = where.partition(".")
            del changed["method"][slot][name]
        yield Change(tuple(f"'~method.{where}'" for where in needing), changed)


def _shorter(frozen: Frozen, device: Device) -> Iterator[Change]:
    high = frozen["sampling"]["max_tokens"]
    if high > _LEAST_COMPLETION and "max_tokens" in frozen["data"]:
        yield from _limit(frozen, device, "data.max_tokens", low=_LEAST_COMPLETION, high=high)


def _model(frozen: Frozen, device: Device) -> Iterator[Change]:
    """The shipped models of the same architecture that are smaller, largest first."""
    shape = frozen["model"].get("shape")
    if not shape:
        return
    size = parameters(shape).total
    smaller = []
    for file in sorted((conf_dir() / "model").glob("*.yaml")):
        other = yaml.safe_load(file.read_text()).get("shape") or {}
        if other.get("model_type") == shape["model_type"] and parameters(other).total < size:
            smaller.append((parameters(other).total, file.stem, other))
    for _, name, other in sorted(smaller, reverse=True):
        node = {KIND: frozen["model"][KIND], "shape": other}
        yield Change((f"model={name}",), with_value(frozen, "model", node))
