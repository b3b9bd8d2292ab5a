"""Where a planned run would compute: the GPUs of a site, GPUs described by hand, or this machine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokensweep.cluster.site import load_site, site_request

GB = 1e9  # bytes
WORDS = ("gpu_mem_gb", "gpus", "gpu_tflops", "gpu_bandwidth_gb_s", "mean_tokens")  # of `plan train` alone

_USABLE = 0.9  # of a machine's memory or of what its own GPU reports: the rest is for the system or for CUDA


@dataclass(frozen=True, kw_only=True)
class Device:
    """One of the ``ranks`` equal devices of a run."""

    name: str
    memory_gb: float  # 10^9 bytes that a run can use
    ranks: int
    on_cpu: bool
    tflops: float | None = None  # in bfloat16
    bandwidth_gb_s: float | None = None
    hour_price: float | None = None
    currency: str = ""


def split_words(overrides: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """The words that describe devices, as numbers, and the other overrides.

    Raises ValueError for one that is no positive number, or no whole one for ``gpus``.
    """
    words: dict[str, float] = {}
    rest = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key not in WORDS:
            rest.append(override)
            continue
        try:
            words[key] = float(value)
        except ValueError:
            words[key] = 0.0
        if not 0 < words[key] < math.inf:
            raise ValueError(f"{key} must be a number above 0, got {value!r}")
        if key == "gpus" and not words[key].is_integer():
            raise ValueError(f"gpus must be a whole number, got {value!r}")
    return words, rest


def device_of(frozen: Mapping[str, Any], words: Mapping[str, float]) -> Device:
    """What the words say, else the run's site, else this machine.

    Raises ValueError for a site that does not say how large its GPUs are.
    """
    wanted = frozen["resources"]["train"]
    if frozen["site"]:
        return _with(words, _of_site(frozen["site"], wanted))
    if "gpu_mem_gb" in words:
        ranks = (wanted["gpus"] or 1) * wanted["nodes"]
        return _with(words, Device(name="GPU", memory_gb=0.0, ranks=ranks, on_cpu=False))
    return _with(words, this_machine(frozen["compute"]["device"], ranks=1))


def _with(words: Mapping[str, float], device: Device) -> Device:
    """The device with what the words replace."""
    memory = words.get("gpu_mem_gb", device.memory_gb)
    if memory == 0:
        raise ValueError(
            f"{device.name} does not say how much memory its GPUs have: add gpu_mem_gb to it, or give it "
            "here, as in gpu_mem_gb=80"
        )
    return Device(
        name=device.name,
        memory_gb=memory,
        ranks=int(words.get("gpus", device.ranks)),
        on_cpu=device.on_cpu and "gpu_mem_gb" not in words,
        tflops=words.get("gpu_tflops", device.tflops),
        bandwidth_gb_s=words.get("gpu_bandwidth_gb_s", device.bandwidth_gb_s),
        hour_price=device.hour_price,
        currency=device.currency,
    )


def _of_site(name: str, wanted: Mapping[str, Any]) -> Device:
    site = load_site(name)
    request = site_request(site, "train", wanted)
    memory = site.gpu_mem_gb if request.gpus else request.mem_gb
    return Device(
        name=f"site {site.name}",
        memory_gb=memory or 0.0,
        ranks=request.ranks * request.nodes,
        on_cpu=request.gpus == 0,
        tflops=site.gpu_tflops,
        bandwidth_gb_s=site.gpu_bandwidth_gb_s,
        hour_price=site.gpu_hour_price,
        currency=site.currency,
    )


def this_machine(device: str, *, ranks: int) -> Device:
    """What ``compute.device`` means here. ``ranks`` on one CPU share its memory."""
    if device != "cpu" and torch.cuda.is_available():  # not run on a GPU
        total = torch.cuda.get_device_properties(0).total_memory
        return Device(name="this machine's GPU", memory_gb=_USABLE * total / GB, ranks=ranks, on_cpu=False)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(name="this machine", memory_gb=_USABLE * total / GB / ranks, ranks=ranks, on_cpu=True)
